"""`make edge`: the shipped runtime, run whole on processors that this machine is not.

`fetch` gets emulator, sysroot and wheels; `run_leg` is what runs on each processor; `compare` holds its record to that
of this machine; `__main__` is the command.
"""
