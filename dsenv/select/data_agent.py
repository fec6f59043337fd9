"""Data Agent: a policy over feature embeddings, co-trained with the model, that weights each sample."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dsenv import kernels
from dsenv.errors import check_count, check_keywords, check_seed, shown
from dsenv.outputs import ModelOutputs
from dsenv.select.base import Selection, Selector, top
from dsenv.select.data_agent_config import DataAgentConfig
from dsenv.select.data_agent_ppo import LEARNERS, Learner
from dsenv.select.data_agent_reward import composite, uncertainty
from dsenv.select.ranking import check_choice
from dsenv.signals import SampleSignals
from dsenv.states import Anything, Either, Exactly, TensorOf, Whole, check_part_state

__all__ = ["DataAgent", "DataAgentConfig", "choose_by_rank", "choose_uniformly"]

FORWARD_ROWS = 8192  # rows of one policy forward in `prepare`


class DataAgent(Selector):
    """An actor-critic reads the model's features and learns which samples are worth training on.

    What it does: in each training batch the actor gives every sample a Beta distribution over weights
    in (0, 1), from the features the model computed anyway, and draws from it. A sample is worth
    `r * difficulty + (1 - r) * uncertainty`: its loss scaled within the batch, the entropy of its
    prediction, and r, the part of the loss in both variances. The reward is the weight times the worth
    above the batch's mean. Every ten batches PPO improves the policy. An epoch trains on the samples
    with the largest mean weight, as last seen; each epoch without training moves a sample 10 % closer
    to the top rank, and 5 % of a selection is drawn uniformly, so that no sample is forgotten. The
    first selection is drawn uniformly and, with `planned`, the last 12.5 % too.

    When it helps: on data with clean labels and much that is easy, where hard and uncertain samples
    carry the progress, and where generalising over features beats remembering each sample's last loss.
    When not: under label noise. The state shows the input, not the label, and the reward calls a
    mislabelled sample hard, so the agent cannot tell wrong from difficult. On 1,000 digits with 20 and
    40 % wrong labels (half of them an epoch, 40 epochs, 10 seeds) its selections held 23.3 and 43.1 %
    wrong labels, and the model reached 0.826 and 0.709 test accuracy against 0.861 and 0.737 for random
    selection; taking the largest last losses held 36 and 62 % and reached 0.758 and 0.562. Without
    noise all came to 0.98. (`benchmarks/data_agent.py noise`; standard errors up to 0.019.) On words with
    human labels, 14 % of them wrong, its selections held 17 to 19 %, and it was level with a random half,
    within 0.6 points (10 seeds; docs/benchmarks/rules.md, "Human label noise").

    Settings: the defaults of `DataAgentConfig`; `planned`, the number of epochs, for annealing; a
    larger `entropy` or `explore` and a smaller `age_decay` for more even visits. A caller who makes a
    pass over all samples may hand it to `prepare`, which refreshes every score (one forward a sample).

    Cost: per step one forward of the policy, and four passes over the last ten batches every ten steps:
    at batch 128 on one thread of a shared EPYC 1.2 ms of processor time a step with 64 features and 1.9 to
    2.2 ms with 512 (`benchmarks/data_agent.py cost`; up to a quarter more when other jobs run). A selection
    ranks all samples and takes 20 bytes a sample meanwhile. State: 8 bytes a sample, and two times ten
    batches of features.

    Source: Data Agent, arXiv 2603.07433; its code, Jackbrocp/Data-Agent at f489f8d. Differences from the
    published code, which cannot learn which samples are good (AUC 0.54 against 0.99 here on a toy whose
    harder half is visible) and starves some (39 % unseen in the last quarter of 100 epochs at ratio 0.5,
    none here; `benchmarks/data_agent.py separation` and `starvation`): losses have shape
    (B,) where the release crosses every action with every advantage, (B, B); one-step advantages,
    centred, instead of trajectories through unrelated samples; the batch mean is subtracted from the
    worth instead of a running normaliser; an entropy bonus; features are scaled by running moments; hidden
    width 64, not 128; scores are means with ageing and exploration, not the last draw; weights are 1,
    not 1 / ratio. The volume schedule decides how many samples an epoch has, full-data epochs
    included; warm-up and annealing here mean uniform draws. `variant="released"` is the published
    program patched to run, for comparison.

    Args:
        config: settings, or a table of them; None for the defaults.
        seed: decides the initial parameters and the actions; torch's global stream is not touched.
        size: N, samples in the training set; None to learn it from the first `select` or `prepare`.
        features: D, length of a feature vector; None to learn it from the first batch.
    """

    needs_logits = True
    reads = ("entropy",)
    needs_features = True

    def __init__(
        self,
        config: DataAgentConfig | Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        size: int | None = None,
        features: int | None = None,
    ) -> None:
        if not isinstance(config, DataAgentConfig):
            table = {} if config is None else config
            if not isinstance(table, Mapping):
                raise ValueError(
                    f"config must be a DataAgentConfig, a table of its settings or None, got {shown(config)}"
                )
            check_keywords("Data Agent", DataAgentConfig, table)
            config = DataAgentConfig(**table)

        self.config = config
        self.seed = check_seed("seed", seed)
        self.size = None if size is None else check_count("size", size)
        self.features = None if features is None else check_count("features", features)

        self._size = self.size  # or what the signals say
        self._width = self.features  # or what the first batch says
        self.learner: Learner | None = None
        self.selections = 0
        self._score: Tensor | None = None
        self._trained_at: Tensor | None = None

    @property
    def score(self) -> Tensor:
        """(N,) last score of each sample, in (0, 1]; 1 before it was first seen."""
        assert self._score is not None, "no scores before the first select, prepare or observe"
        return self._score

    def prepare(self, train: ModelOutputs, validation: ModelOutputs | None = None) -> None:
        """Refresh the scores of all samples from one pass over the training set; optional, any time."""
        del validation
        features = self._checked_features(train)
        self._remember(len(features), features.device)
        learner = self._learner_for(features)
        chunks = torch.split(features.float(), FORWARD_ROWS)
        self.score[train.index] = torch.cat([learner.scores(chunk) for chunk in chunks])

    def observe(self, batch: ModelOutputs) -> None:
        """Act on a training batch, learn from its losses, and refresh its samples' scores.

        Raises:
            ValueError: features or logits are missing, or the training set's size is not known yet.
        """
        features = self._checked_features(batch)
        if self._size is None:
            raise ValueError(
                "Data Agent does not know the training set's size; call select first or give size"
            )

        self._remember(self._size, features.device)
        worth = composite(batch.loss.detach().float(), self._uncertainty(batch), self.config.quantile)
        score = self._learner_for(features).visit(features.float(), worth)
        assert self._trained_at is not None
        self.score[batch.index] = score
        self._trained_at.index_fill_(0, batch.index, self.selections)

    @staticmethod
    def _uncertainty(batch: ModelOutputs) -> Tensor:
        """Entropy (B,) of each prediction over that of a uniform guess.

        Raises:
            ValueError: neither logits nor the reading was given.
        """
        if batch.logits is not None:
            return uncertainty(batch.logits.detach().float())
        if batch.readings is not None and "entropy" in batch.readings:
            return batch.readings["entropy"].detach().float()
        raise ValueError("Data Agent needs ModelOutputs.logits, got None; pass the model's outputs (B, C)")

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Choose the samples of the next epoch; each call counts as one epoch.

        Args:
            signals: tells the number of samples and the device; its values are not used.
            count: M, how many to choose, 1..N.
            generator: breaks ties and draws what is drawn uniformly.
        """
        count = check_choice(count, signals.size)
        self._remember(signals.size, signals.device)
        assert self._trained_at is not None

        config, selection = self.config, self.selections
        if self.learner is not None:
            if config.variant == "released":
                self.learner.update()  # what the last epoch left over
            self.learner.set_lr(config.lr_at(selection))
        self.selections += 1

        if config.uniform(selection):
            chosen = choose_uniformly(signals.size, count, generator)
        elif config.variant == "released":
            chosen = top(self.score, count).index
        else:
            age = selection - self._trained_at
            chosen = choose_by_rank(self.score, age, count, config.explore, config.age_decay, generator)

        weight = signals.size / count if config.variant == "released" else 1.0
        return Selection(chosen, torch.full((count,), weight, device=chosen.device))

    def _checked_features(self, batch: ModelOutputs) -> Tensor:
        if batch.features is None:
            raise ValueError(
                "Data Agent needs ModelOutputs.features, got None; pass the (B, D) inputs of the last linear "
                "layer"
            )
        if batch.features.dim() != 2 or len(batch.features) != len(batch.index):
            raise ValueError(
                f"ModelOutputs.features must have shape (B, D) with B = {len(batch.index)}, got "
                f"{tuple(batch.features.shape)}; flatten or pool them first"
            )

        return batch.features.detach()

    def _learner_for(self, features: Tensor) -> Learner:
        """The learner, built for the first features seen."""
        if self.learner is None:
            self._width = self._width or features.shape[1]
            self.learner = LEARNERS[self.config.variant](self.config, self._width, self.seed, features.device)

        if features.shape[1] != self._width:
            raise ValueError(
                f"this Data Agent was built for {self._width} features a sample, got {features.shape[1]}; "
                "use a new one for another model"
            )

        return self.learner

    def _remember(self, size: int, device: torch.device) -> None:
        """Set up the scores at the first call; check the size at the others."""
        if self._size is not None and self._size != size:
            raise ValueError(
                f"this Data Agent remembers {self._size} samples, got {size}; "
                "another data set needs a new one"
            )

        self._size = size
        if self._score is None:
            self._score = torch.ones(size, device=device)
            self._trained_at = torch.zeros(size, dtype=torch.int32, device=device)

    def state_dict(self) -> dict[str, Any]:
        """The settings and a copy of everything the agent remembers."""
        return {
            "settings": self.settings(),
            "selections": self.selections,
            "features": self._width,
            "score": None if self._score is None else self._score.clone(),
            "trained_at": None if self._trained_at is None else self._trained_at.clone(),
            "learner": None if self.learner is None else self.learner.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`, bit for bit.

        Raises:
            ValueError: it is no state of a Data Agent, or of other settings or of another number of samples;
                nothing is loaded then.
        """
        check_part_state(self, state)
        score, trained_at = state["score"], state["trained_at"]
        size = None if score is None else len(score)
        if (trained_at is None) != (score is None) or (score is not None and len(trained_at) != size):
            raise ValueError("this is no state of DataAgent: 'score' and 'trained_at' must have one length")
        if size is not None and self._size is not None and size != self._size:
            raise ValueError(
                f"'score' of the state holds {size} samples, this Data Agent is for {self._size}"
            )

        learner = None if state["learner"] is None else self._loaded_learner(state)
        self.selections = state["selections"]
        self._width = state["features"]
        self._size = self.size if size is None else size
        self._score = None if score is None else score.clone()
        self._trained_at = None if trained_at is None else trained_at.clone()
        self.learner = learner

    def state_like(self) -> dict[str, Any]:
        """How a state must look; the learner's part is looked at when it is built."""
        return {
            "settings": Exactly(self.settings()),
            "selections": Whole(),
            "features": Whole(1) if self.features else Either(None, Whole(1)),
            "score": Either(None, TensorOf(torch.float32, (None,))),
            "trained_at": Either(None, TensorOf(torch.int32, (None,))),
            "learner": Anything(),
        }

    def _loaded_learner(self, state: Mapping[str, Any]) -> Learner:
        """A new learner in a saved state; there may be none here yet, because no features were seen."""
        width, score = state["features"], state["score"]
        if width is None or score is None or self.features not in (None, width):
            raise ValueError(
                f"this is no state of DataAgent: its learner needs 'score' and 'features', and has {width} "
                f"features a sample; here they are {self.features or 'not given'}"
            )

        learner = LEARNERS[self.config.variant](self.config, width, self.seed, score.device)
        learner.load_state_dict(state["learner"])
        return learner


def choose_uniformly(size: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` of `size` positions, (M,) int64, each set equally likely."""
    return kernels.subset(size, count, generator)


def choose_by_rank(
    score: Tensor, age: Tensor, count: int, explore: float, age_decay: float, generator: torch.Generator
) -> Tensor:
    """The samples with the best aged ranks, and some of the others, drawn uniformly.

    Ranks are aged rather than scores, so that a confident policy cannot exclude a sample for ever: a
    distance g (0..1) from the top rank shrinks to `g * age_decay**age` after `age` epochs without training.

    Args:
        score: (N,) larger is better; equal ones are ranked at random.
        age: (N,) integer, epochs since the sample was last trained on.
        count: M, how many to choose, 1..N.
        explore: share of them drawn uniformly from those that the rank leaves out, [0, 1].
        age_decay: factor on the distance for each epoch, (0, 1].
        generator: the only source of randomness, on the scores' device.

    Returns:
        (M,) int64 positions.
    """
    size = len(score)
    closeness = torch.empty_like(score)  # minus the distance
    closeness[kernels.ranking(score, generator)] = -torch.linspace(
        0, 1, size, device=score.device, dtype=score.dtype
    )
    closeness *= age_decay ** age.to(score.dtype)

    best = kernels.top_k(closeness, count - round(explore * count))

    # The best ones last, so that the draw is among the others
    key = torch.rand(size, generator=generator, device=score.device)
    key[best] += 1.0
    return kernels.top_k(key, count)
