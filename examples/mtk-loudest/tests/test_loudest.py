import pytest
import torch
from mtk_loudest.loudest import Loudest, loudest_weights

from mtk import ConfigError
from mtk.testing import check_combiner


def test_conformance():
    check_combiner(Loudest)


def test_value():
    gram = torch.diag(torch.tensor([1.0, 25.0], dtype=torch.float64))  # lengths 1 and 5, mean 3
    assert loudest_weights(gram, 1.0).tolist() == pytest.approx([1.0, 0.6])


def test_at_the_number_of_tasks_it_is_the_sum():
    gram = torch.diag(torch.tensor([0.0, 1.0, 25.0], dtype=torch.float64))
    assert loudest_weights(gram, 3.0).tolist() == [1.0, 1.0, 1.0]


def test_ratio():
    with pytest.raises(ConfigError, match="1 or more"):
        Loudest(ratio=0.5)
