"""Texts in English and Chinese; the Chinese stands in `assets/zh.yaml`."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml
from markupsafe import Markup, escape

_CHINESE_SEPARATORS = {", ": "，", ": ": "：", "; ": "；", " ": ""}


@dataclass(frozen=True)
class Text:
    """One text in English and Chinese.

    >>> Text("turnover", "换手").zh
    '换手'
    """

    en: str
    zh: str

    def __html__(self) -> str:
        """Both languages, of which the page's switch shows one."""
        if self.en == self.zh:
            return escape(self.en)
        return Markup('<span lang="en">{}</span><span lang="zh">{}</span>').format(self.en, self.zh)


@cache
def _words() -> dict[str, dict[str, Any]]:
    """Sections of `zh.yaml`: titles, texts, sentences, recorded, definitions."""
    file = resources.files("qlib_ext.report") / "assets" / "zh.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
    words: dict[str, dict[str, Any]] = yaml.load(file.read_text(encoding="utf-8"), loader)
    words["texts"] |= dict(words["titles"].values())
    return words


def plain(value: Any) -> Text:
    """Text that is the same in both languages: a name, a code, a date."""
    return value if isinstance(value, Text) else Text(str(value), str(value))


def text(template: str, **fields: Any) -> Text:
    """Text of the page with its fields filled in, a Text by language; without its Chinese in `zh.yaml` it is English.

    >>> text("mean over {n} runs", n=3).zh
    '3 个运行的均值'
    """
    return _filled(template, _words()["texts"].get(template, template), fields)


def sentence(key: str, **fields: Any) -> Text:
    """Text of `zh.yaml` by its key, with its fields filled in."""
    english, chinese = _words()["sentences"][key]
    return _filled(english, chinese, fields)


def _filled(english: str, chinese: str, fields: dict[str, Any]) -> Text:
    by_language = ({key: getattr(v, name, v) for key, v in fields.items()} for name in ("en", "zh"))
    return Text(english.format(**next(by_language)), chinese.format(**next(by_language)))


def join(texts: Iterable[Any], separator: str = ", ") -> Text:
    """Put texts after each other, in Chinese with a Chinese separator."""
    every = [plain(each) for each in texts]
    chinese = _CHINESE_SEPARATORS.get(separator, separator)
    return Text(separator.join(each.en for each in every), chinese.join(each.zh for each in every))


def money(yuan: float) -> Text:
    """Write an amount in the units in which it is said.

    >>> money(150e6), money(18e8).en, money(25_000.4).zh
    (Text(en='150 million yuan', zh='1.5 亿元'), '1.8 billion yuan', '2.5 万元')
    """

    def said(steps: tuple[tuple[float, str], ...]) -> str:
        unit, name = next((step for step in steps if abs(yuan) >= step[0]), (1.0, steps[-1][1]))
        return f"{float(f'{yuan / unit:.4g}'):,.10g}{name}"

    english = ((1e9, " billion yuan"), (1e6, " million yuan"), (1.0, " yuan"))
    return Text(said(english), said(((1e8, " 亿元"), (1e4, " 万元"), (1.0, " 元"))))


def title(key: Any, table: str = "") -> Text:
    """Title of a column, row or metric by its key, of a table's own where it has one; an unknown key in words.

    >>> title("capped_buyable_net").en, title("impact", "waterfall").en, title("my_own_number").en
    ('capital in full, buyable, net of fees', 'market impact (the run itself)', 'my own number')
    """
    titles, name = _words()["titles"], str(key)
    pair = titles.get(f"{table}.{name}") or titles.get(name)
    if pair:
        return Text(*pair)
    if name.startswith("gone_"):
        return text("sold after {n} days (%)", n=name.removeprefix("gone_"))
    return plain(name.replace("_", " "))


def series_title(name: str) -> Text:
    """Title of a series of daily returns, such as capped_buyable_net_over_market."""
    series, _, base = name.partition("_over_")
    if not base:
        return title(series)
    means = {"market": "less the mean of all stocks", "buyable": "less the mean of the buyable stocks"}
    return join([title(series), text(means[base]) if base in means else text("less {base}", base=base)])


def definition(key: str, english: str, table: str = "", **fields: Any) -> Text:
    """Definition of a key, its English as the artifact has it, of an older version too; `fields`: see `recorded`."""
    words, name = _words()["definitions"], f"{table}.{key}" if table else key
    stem = name.rstrip("0123456789").removesuffix("_")  # gone_5: gone
    chinese = _words()["recorded"].get(english) or words.get(name) or words.get(stem)
    return Text(english, chinese) if chinese else recorded(english, **fields)


def recorded(sentence: str, **fields: Any) -> Text:
    """Text of a sentence that a record has stored in English: the one that `fields` fill in to just this sentence.

    A sentence that no text of `zh.yaml` gives stays as it is.
    """
    for english, chinese in _words()["recorded"].items():
        try:
            filled = _filled(english, chinese, fields)
        except KeyError:  # it has other fields
            continue
        if filled.en == sentence:
            return filled
    return plain(sentence)
