"""Where calls come in: each edge decodes its messages, tells who calls, and encodes the answers. No policy."""
