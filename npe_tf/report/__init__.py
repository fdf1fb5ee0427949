"""The report of a run: a page for people and JSON for programs.

`contents` gathers the numbers and writes both files; `page`, `provenance`, `legends`, `markup` and
`style` make the page of the numbers.
"""
