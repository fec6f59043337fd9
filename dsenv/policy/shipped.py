"""Policies that come with the package: `dsenv.pretrained(name)`."""

from importlib.resources import as_file, files
from importlib.resources.abc import Traversable

from dsenv.errors import pick
from dsenv.policy.policy import Policy

SUFFIX = ".safetensors"


class Pretrained:
    """Loads policies of `dsenv/_policies/`: `dsenv.pretrained("curriculum")`.

    Use::

        import torch
        import dsenv

        print(dsenv.pretrained.names())
        policy = dsenv.pretrained("curriculum")
        data = torch.rand(500, 20), torch.randint(0, 4, (500,))
        plan = dsenv.DataPlan(data, epochs=30, batch_size=50, policy=policy, ratio=0.5)

    Args:
        folder: where the files are; None for the package's own.
    """

    def __init__(self, folder: Traversable | None = None) -> None:
        self.folder = files("dsenv") / "_policies" if folder is None else folder

    def names(self) -> list[str]:
        """Names of the policies that are there, sorted."""
        return self._stems(SUFFIX)

    def recipes(self) -> list[str]:
        """Names of the recipes that policies are made by, `dsenv.workbench.pretrain`, sorted."""
        return self._stems(".toml")

    def _stems(self, suffix: str) -> list[str]:
        if not self.folder.is_dir():
            return []
        found = [entry.name for entry in self.folder.iterdir()]
        return sorted(name.removesuffix(suffix) for name in found if name.endswith(suffix))

    def __call__(self, name: str) -> Policy:
        """The policy of that name.

        Raises:
            ValueError: there is none; the message names the nearest one.
        """
        known = self.names()
        if name not in known and (name in self.recipes() or not known):
            there = f" There are: {', '.join(known)}." if known else ""
            raise ValueError(
                f"no policy called {name!r} is shipped with this version of dsenv.{there} Give the path of a "
                "policy.safetensors that train_agent.py wrote, or make one: python -m "
                f"dsenv.workbench.pretrain {name} (recipes: {', '.join(self.recipes())})"
            )

        pick("pretrained policy", name, known)
        with as_file(self.folder / f"{name}{SUFFIX}") as path:
            return Policy.load(path)


pretrained = Pretrained()
