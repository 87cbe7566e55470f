"""The public APIs' shapes: errors, events, usage, lists. Pure; knows no provider and no policy."""
