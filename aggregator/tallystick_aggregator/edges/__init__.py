"""Where calls come in: protobuf becomes bytes and integers here, and principals are told apart."""
