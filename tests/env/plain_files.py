"""A state written as one safetensors file and one JSON text, and read again: no pickle, no class."""

import json

import torch
from safetensors.torch import load, save


def through_files(state):
    """The state after a way through `safetensors` and `json`."""
    tensors = {}

    def without_tensors(value, path):
        if isinstance(value, torch.Tensor):
            tensors[path] = value
            return {"tensor": path}
        if type(value) is dict:
            assert all(type(key) is str for key in value), path
            return {key: without_tensors(each, f"{path}/{key}") for key, each in value.items()}
        if type(value) is list:
            return [without_tensors(each, f"{path}/{place}") for place, each in enumerate(value)]
        assert value is None or type(value) in (str, bool, int, float), (path, type(value))
        return value

    def with_tensors(value):
        if type(value) is dict:
            if set(value) == {"tensor"}:
                return found[value["tensor"]]
            return {key: with_tensors(each) for key, each in value.items()}
        return [with_tensors(each) for each in value] if type(value) is list else value

    text = json.dumps(without_tensors(state, ""))
    found = load(save(tensors))
    return with_tensors(json.loads(text))
