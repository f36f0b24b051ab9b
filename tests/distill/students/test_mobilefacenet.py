"""The classic MobileFaceNet against the published network."""

import torch

from distill.students import MobileFaceNet, MobileFaceNetSettings


def classic() -> MobileFaceNet:
    with torch.device("meta"):
        return MobileFaceNetSettings().build(embedding_dim=512, size_px=112)


def test_has_the_published_number_of_weights() -> None:
    network = classic()
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_199_488
    assert len(network.state_dict()) == 331


def test_names_its_weights_as_the_classic_family_does() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in classic().state_dict().items()}
    expected = {
        "conv1.conv.weight": (64, 3, 3, 3),
        "conv1.prelu.weight": (64,),
        "conv2_dw.conv.weight": (64, 1, 3, 3),
        "conv_23.conv.conv.weight": (128, 64, 1, 1),
        "conv_23.project.bn.running_mean": (64,),
        "conv_3.model.3.conv_dw.conv.weight": (128, 1, 3, 3),
        "conv_34.conv_dw.conv.weight": (256, 1, 3, 3),
        "conv_4.model.5.project.conv.weight": (128, 256, 1, 1),
        "conv_45.conv.conv.weight": (512, 128, 1, 1),
        "conv_5.model.1.conv.bn.weight": (256,),
        "conv_6_sep.conv.weight": (512, 128, 1, 1),
        "output_layer.conv_6_dw.conv.weight": (512, 1, 7, 7),
        "output_layer.linear.weight": (512, 512),
        "output_layer.bn.running_var": (512,),
    }
    assert {name: shapes.get(name) for name in expected} == expected


def test_embeddings_have_no_learned_gain() -> None:
    assert not any(name.startswith("output_layer.bn") for name, _ in classic().named_parameters())


def test_narrow_networks_keep_to_multiples_of_eight() -> None:
    network = MobileFaceNetSettings(width=0.3).build(embedding_dim=20, size_px=32)
    widths = {module.out_channels for module in network.modules() if isinstance(module, torch.nn.Conv2d)}
    assert all(width % 8 == 0 for width in widths)
