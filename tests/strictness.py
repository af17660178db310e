"""How fresh interpreters are started by tests: every warning is an error there, too."""

# The one warning that is left alone: torch 2.6 makes a temporary folder when torch.distributed is imported (its
# distributed/nn/jit/instantiator.py) and leaves removing it to the interpreter's end. Newer releases of torch do not.
WARNINGS_ARE_ERRORS = ("-W", "error", "-W", "ignore:Implicitly cleaning up:ResourceWarning")
