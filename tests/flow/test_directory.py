"""Which model a name means, in which order, and who may use it."""

from __future__ import annotations

import random

import pytest

from fastgw.domain import Alias, Deployment, Price, Principal, Provider
from fastgw.errors import ModelNotAllowed, ModelNotFound, NoDeploymentAvailable
from fastgw.flow.directory import Directory, Known, Route
from fastgw.flow.route import draw


def provider(name: str, *models: str, kind: str = "openai_compatible", enabled: bool = True):
    return Provider(
        name=name, type=kind, base_url=f"http://{name}.test/v1", models=models, enabled=enabled
    )


def principal(*allowed: str) -> Principal:
    return Principal(key_id="k", name="k", allowed_models=allowed)


@pytest.fixture
def directory() -> Directory:
    return Directory(
        providers=[
            provider("a", "m1", "m2"),
            provider("b", "m2", "m3"),
            provider("c", kind="openai"),
            provider("off", "m9", enabled=False),
        ],
        routes=[
            Route(name="smart", deployments=(("a", "m1", 3), ("b", "m3", 1), ("off", "m9", 1))),
            Route(name="m3", deployments=(("a", "m1", 1),)),
            Route(name="gone", deployments=(("off", "m9", 1),)),
        ],
        aliases=[Alias(name="fast", model="smart"), Alias(name="m1", model="m3")],
        known=[
            Known(provider_type="openai", name="gpt-x", price=Price(input=1, output=2)),
            Known(provider_type="openai", name="gpt-off", enabled=False),
            Known(provider_type="openai", name="ft:gpt-x", price=Price(input=3)),
            Known(provider_type="openai", name="hd/1024-x-1024/gpt-x", price=Price(input=3)),
            Known(provider_type="", name="smart", price=Price(input=7)),
            Known(provider_type="a", name="m2", price=Price(input=5)),
            Known(provider_type="openai", name="gpt-y", price=Price(input=1)),
            Known(provider_type="", name="gpt-y", price=Price(input=9)),
        ],
    )


def where(directory: Directory, name: str, pinned: str | None = None) -> list[tuple[str, str]]:
    model, _ = directory.resolve(name, pinned)
    return [(d.provider.name, d.model) for d in model.deployments]


def test_an_alias_wins_over_every_other_meaning(directory):
    """`m1` is listed by a, but the alias of that name points at the model m3, served by a as m1."""
    model, alias = directory.resolve("m1")
    assert (model.name, alias.name) == ("m3", "m1")


def test_a_configured_model_wins_over_a_listed_one(directory):
    """b lists m3, but a model of that name is configured."""
    assert where(directory, "m3") == [("a", "m1")]


def test_a_prefix_names_the_provider_and_may_hold_more_slashes(directory):
    """`provider/model` asks that provider for whatever follows the first slash."""
    assert where(directory, "b/any/thing") == [("b", "any/thing")]


def test_the_first_provider_that_lists_a_name_serves_it_and_the_others_are_named(directory):
    """Both a and b list m2; /health warns."""
    assert where(directory, "m2") == [("a", "m2")]
    assert directory.ambiguous == {"m2": ["a", "b"]}


def test_models_of_the_store_belong_to_the_providers_of_their_type(directory):
    """gpt-x is known for the type openai, which only c has."""
    assert where(directory, "gpt-x") == [("c", "gpt-x")]


def test_names_that_only_carry_prices_are_no_models(directory):
    """Picture sizes and fine-tuned families are priced in the catalogue, and served by nobody."""
    assert not {"ft:gpt-x", "hd/1024-x-1024/gpt-x"} & set(directory.listed)


def test_disabled_things_serve_nothing(directory):
    """A disabled model is not found; a model with only disabled deployments is unavailable."""
    with pytest.raises(ModelNotFound):
        directory.resolve("gpt-off")
    with pytest.raises(ModelNotFound):
        directory.resolve("m9")
    with pytest.raises(NoDeploymentAvailable):
        directory.resolve("gone")


def test_an_unknown_name_is_answered_with_near_misses(directory):
    """The message helps: it names what looks alike."""
    with pytest.raises(ModelNotFound, match="did you mean 'smart'"):
        directory.resolve("smrt")


def test_a_pinned_request_stays_with_its_provider(directory):
    """A pin narrows a model to one provider, and asks for an unlisted name as it is."""
    assert where(directory, "smart", "b") == [("b", "m3")]
    assert where(directory, "b/whatever", "b") == [("b", "whatever")]
    assert where(directory, "m2", "b") == [("b", "m2")]
    with pytest.raises(NoDeploymentAvailable):
        directory.resolve("m9", "off")


def test_prices_come_from_the_nearest_who_knows(directory):
    """An operator's price for the public name, then the provider's, then its type's."""
    assert directory.resolve("gpt-y")[0].deployments[0].price == Price(input=9)
    assert [d.price for d in directory.resolve("smart")[0].deployments] == [
        Price(input=7),
        Price(input=7),
    ]
    assert directory.resolve("a/m2")[0].deployments[0].price == Price(input=5)
    assert directory.resolve("gpt-x")[0].deployments[0].price == Price(input=1, output=2)


def test_a_key_may_use_what_its_patterns_match_by_either_name(directory):
    """Patterns are matched against the name sent and the model behind it."""
    model, _ = directory.resolve("fast")
    directory.permit(principal(), "fast", model)
    directory.permit(principal("sm*"), "fast", model)
    directory.permit(principal("fast"), "fast", model)
    with pytest.raises(ModelNotAllowed):
        directory.permit(principal("gpt-*"), "fast", model)


def test_only_usable_models_are_visible(directory):
    """A listing holds what the key may use and somebody serves, aliases included."""
    assert [m.name for m in directory.visible(principal("sm*", "f*", "gone", "gpt-*"))] == [
        "fast",
        "gpt-x",
        "gpt-y",
        "smart",
    ]


def test_the_draw_follows_the_weights():
    """First places are shared by weight; weight 0 is always last; nobody is left out."""
    deployments = tuple(
        Deployment(provider=provider(name), model="m", weight=weight)
        for name, weight in (("heavy", 3), ("light", 1), ("last", 0))
    )
    rng = random.Random(1)
    firsts = []
    for _ in range(4000):
        order = [d.provider.name for d in draw(deployments, rng)]
        assert sorted(order) == ["heavy", "last", "light"]
        assert order[-1] == "last"
        firsts.append(order[0])
    assert 0.72 < firsts.count("heavy") / 4000 < 0.78
