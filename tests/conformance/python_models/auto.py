"""The model.py of all models whose config is completed by code; the model's name says how."""

import triton_python_backend_utils as pb_utils

IN = {"name": "IN", "data_type": "TYPE_FP32", "dims": [-1]}
OUT = {"name": "OUT", "data_type": "TYPE_FP32", "dims": [-1]}


def plain(config):
    config.add_input(IN)
    config.add_output(OUT)
    config.set_max_batch_size(8)
    config.set_dynamic_batching()
    return config


def optional(config):
    config.add_input(IN)
    config.add_input({"name": "MORE", "data_type": "TYPE_STRING", "dims": [2, -1], "optional": True})
    config.add_output(OUT)
    config.set_max_batch_size(0)
    return config


def decoupled(config):
    config.set_model_transaction_policy({"decoupled": True})
    return optional(config)


def larger(config):
    """config.pbtxt says 4."""
    config.add_input(IN)
    config.set_max_batch_size(16)
    return config


def smaller(config):
    config.set_max_batch_size(2)
    return config


def no_batching(config):
    config.set_max_batch_size(0)
    return config


def dictionary(config):
    inside = config.as_dict()
    inside["max_batch_size"] = 6
    return config


def added(config):
    config.add_input({"name": "NEW", "data_type": "TYPE_INT32", "dims": [3], "optional": True})
    config.add_output({"name": "FRESH", "data_type": "TYPE_INT32", "dims": [3]})
    return config


def wrong_type(config):
    config.add_input({"name": "IN", "data_type": "TYPE_INT32", "dims": [-1]})
    return config


def wrong_dims(config):
    config.add_input({"name": "IN", "data_type": "TYPE_FP32", "dims": [3]})
    return config


def no_name(config):
    config.add_input({"data_type": "TYPE_FP32", "dims": [3]})
    return config


def no_dims(config):
    config.add_output({"name": "OUT", "data_type": "TYPE_FP32"})
    return config


def unknown_property(config):
    config.add_input({**IN, "colour": "red"})
    return config


def unknown_policy(config):
    config.set_model_transaction_policy({"decoupled": True, "colour": "red"})
    return config


def raises(config):
    raise ValueError("cannot complete this")


def returns_nothing(config):
    config.add_input(IN)


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        name = auto_complete_model_config.as_dict()["name"]
        return globals()[name.removeprefix("auto_")](auto_complete_model_config)

    def execute(self, requests):
        responses = []
        for request in requests:
            array = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)]))
        return responses
