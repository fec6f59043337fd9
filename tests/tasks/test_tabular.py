import pytest
import torch

from dsenv.catalogue import build_part
from dsenv.tasks.task import DATASETS

TABLES = {"breast_cancer": (300, 100, 169, 30, 2), "wine": (90, 40, 48, 13, 3), "iris": (75, 35, 40, 4, 3)}


@pytest.mark.parametrize("name", TABLES)
def test_tables_keep_the_contract_of_data_sets(name):
    data = build_part("dataset", DATASETS, name)
    *sizes, measurements, classes = TABLES[name]
    assert [len(split) for split in data.splits().values()] == sizes
    assert data.sample_shape == (measurements,) and data.classes == classes
    taken = torch.cat([split.source[1] for split in data.splits().values()])
    assert len(taken.unique()) == len(taken) == sum(sizes)
    own = data.train.images
    assert own.dtype == torch.float32
    torch.testing.assert_close(own.mean(0), torch.zeros(measurements), atol=1e-5, rtol=0)
    torch.testing.assert_close(own.std(0), torch.ones(measurements), atol=1e-4, rtol=0)


@pytest.mark.fast
def test_sizes_and_splits_are_set_as_for_digits():
    settings = {"name": "wine", "train": 20, "validation": 10, "test": 5}
    one, again = (build_part("dataset", DATASETS, settings) for _ in range(2))
    other = build_part("dataset", DATASETS, settings | {"split_seed": 1})
    assert len(one.train) == 20 and len(one.test) == 5
    assert torch.equal(one.train.images, again.train.images)
    assert not torch.equal(one.train.source[1], other.train.source[1])
    with pytest.raises(ValueError, match="wine has 178 samples, too few"):
        build_part("dataset", DATASETS, settings | {"train": 200})
