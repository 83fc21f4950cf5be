"""Child processes of ours: how they are started, hardened, talked to and reaped, whatever they are for."""
