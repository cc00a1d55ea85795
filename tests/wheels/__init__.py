"""`make wheels`: the source archive and the wheels that a release has, built and tested.

`build` makes them; zig compiles for both processors, whatever this machine is. `check` installs each where it can run
and holds it to Pillow and NumPy; `__main__` is the command.
"""
