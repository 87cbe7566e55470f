"""The composition root: wires the rooms, serves them, reloads and drains them."""
