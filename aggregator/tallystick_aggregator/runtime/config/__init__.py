"""The configuration file: `file` reads it, `chains` the tables of chains, `errors` says what is wrong with one."""
