"""Names of the volume schedules; a schedule is imported when it is first built."""

SCHEDULES: dict[str, str] = {
    "constant": "dsenv.volume.constant:Constant",
    "pods": "dsenv.volume.pods:Pods",
    "linear": "dsenv.volume.linear:Linear",
    "cosine": "dsenv.volume.cosine:Cosine",
    "step": "dsenv.volume.step:Step",
}
"""Name -> "module:class"."""
