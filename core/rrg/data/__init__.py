"""Studies on disk: collections imported, films and reports read.

`study` says what a study is, `write` makes a data folder, a module a collection reads it. All that works on studies
imports it; it imports labels and the top.
"""
