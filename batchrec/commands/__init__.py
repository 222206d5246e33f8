"""The commands, one function each; :mod:`batchrec.cli` registers them."""
