"""The command line by groups; `pipeline/cli.py` puts them together."""
