"""The configuration file: `file` reads it, `chains` and `gas` their tables, `errors` says what is wrong with one."""
