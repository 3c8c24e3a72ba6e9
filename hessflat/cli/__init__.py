"""The commands, one module each: `python -m hessflat COMMAND --name=value`."""
