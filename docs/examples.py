"""The examples at the end of docstrings become sections of their own on the API pages."""

import textwrap
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Put a heading over a docstring's first `>>>` and indent what follows, as the google style wants it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of each object that has one."""
        if obj.docstring is not None:
            text, prompt, example = obj.docstring.value.partition("\n>>> ")
            if prompt:
                obj.docstring.value = f"{text}\nExamples:\n{textwrap.indent(f'>>> {example}', '    ')}"
