"""A file of the catalogue: its text, behind it its encoding."""

from codecs import BOM_UTF8


def written(path, text):
    r"""Write a text; `\t` is a tab, `# in gbk` and the like at its end the encoding."""
    body, _, encoding = text.replace("\\t", "\t").partition(" # in ")
    raw = body.encode("utf-8" if encoding in ("", "utf-8 with a mark") else encoding)
    path.write_bytes(BOM_UTF8 + raw if encoding == "utf-8 with a mark" else raw)
    return path
