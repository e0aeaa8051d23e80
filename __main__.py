"""python -m odeon: the same as the command odeon."""
from .cli import app

app(prog_name="odeon")
