"""Names of curves and pictures. The part before the slash is the group that TensorBoard shows them in.

No name holds a sign that a logger refuses (MLflow takes letters, digits and `_-. :/`), or, but for the dot,
that means something in a regular expression: TensorBoard's layouts are matched by those.
"""

VALIDATION_ACCURACY = "accuracy/validation"
TRAIN_ACCURACY = "accuracy/training"
FINAL_ACCURACY = "accuracy/validation at the end"
TRAIN_LOSS = "accuracy/training loss"

SHARE = "chosen/share of the data"
WRONG = "chosen/wrong labels"
STRENGTH = "chosen/augmentation strength"
BY_BIN = "chosen/share from each loss bin"
IMAGES = "chosen/images chosen and left out"
DIVERGED = "chosen/training runs that diverged"

SAMPLES = "cost/samples seen"
TOKENS = "cost/tokens seen"
FORWARDS = "cost/samples of extra forward passes"
SECONDS = "cost/seconds"


def loss_bin(number: int) -> str:
    """Share of the chosen from a loss-rank bin; bin 0 holds the smallest losses."""
    return f"chosen/from loss bin {number}"


def pool(signal: str, moment: str = "") -> str:
    """A histogram of a signal over all samples: "losses" or "confidences", and when, where that is said."""
    return f"pool/{signal}" + (f" {moment}" if moment else "")


def action(part: str, moment: str) -> str:
    """A histogram of a policy's actions of one kind, and when."""
    return f"policy/{part} {moment}"


def feature(name: str, number: int = 1) -> str:
    """What a policy acted on: an entry of its observation, of policy `number` where there are several.

    Signs that a logger refuses are left out; "scaled" is a loss l as l / (l + log C), in [0, 1).
    """
    words = name.replace(", l / (l + log C)", " scaled").replace("%", "percent")
    words = words.replace(" / ", " over ").replace("_", " ")
    kept = "".join(sign if sign.isascii() and (sign.isalnum() or sign in " .:-") else " " for sign in words)
    group = "policy" if number == 1 else f"policy {number}"
    return f"{group}/{' '.join(kept.split())}"


def interval(number: int, of: int) -> str:
    """When: interval `number`, from 1 on, of `of`."""
    return f"in interval {number:0{len(str(of))}d} of {of}"


# Of a plan in a training loop of one's own

NEW = "chosen/not trained on before"
NOT_FINITE = "chosen/left out as not finite"
PLAN_SECONDS = "cost/seconds of the plan"
EPOCH_SECONDS = "cost/seconds of the epoch"

GUARD_SHARE = "guard/share of the policy"
GUARD_AGREEMENT = "guard/agreement of the reserve"
GUARD_WARNED = "guard/warned"
