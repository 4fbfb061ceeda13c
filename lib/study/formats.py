"""Tables of texts as Markdown and LaTeX."""

import re

import pandas as pd


def markdown(tables: list[pd.DataFrame], below: list[str]) -> str:
    """Tables of texts as Markdown, with a list of notes below them."""
    texts = [table.to_markdown(index=False, tablefmt="github", disable_numparse=True) + "\n\n" for table in tables]
    return "".join([*texts, *(f"- {note}\n" for note in below)])


def latex(table: pd.DataFrame) -> str:
    """A table of texts as a LaTeX tabular (package booktabs)."""

    def cell(text: str) -> str:
        return re.sub(r"\*\*(.*)\*\*", r"\\textbf{\1}", text).replace("±", r"$\pm$")

    style = table.style.hide(axis="index").format(cell, escape="latex").format_index(escape="latex", axis="columns")
    return style.to_latex(hrules=True)
