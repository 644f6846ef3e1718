"""Rewritten instructions of LIBERO's forty tasks: our own, by template and by hand.

Five kinds, from `Language.level` 1 to 5:

1. other words for the same thing;
2. the instruction within a longer sentence;
3. the instruction next to something that does not matter;
4. things described instead of named;
5. a situation, from which the task follows.

The second and third kind exist for every task, the others only for LIBERO's forty. No text has more
than 32 words, the limit of the bundled policies.
"""

from __future__ import annotations

import functools

SENTENCES = (
    "please {}",
    "could you {}",
    "your task is to {}",
    "i would like you to {} now",
    "robot, it is your turn: {}",
    "take your time and {}",
)
"""Sentences around an instruction."""

DISTRACTIONS = (
    "it is raining outside today. {}",
    "someone is at the door, but first {}",
    "{}, we will talk about the rest of the kitchen later",
    "do not worry about the lamp. {}",
    "the other things can stay where they are. {}",
    "my brother tidied up yesterday. {}",
)
"""Remarks next to an instruction."""

# --- libero_object --------------------------------------------------------------------------------

_OBJECT_WORDS = (
    "put the {} in the basket",
    "grab the {} and drop it into the basket",
    "move the {} into the basket",
    "the {} belongs in the basket, take it there",
)
_OBJECT_DESCRIBED = (
    "pick up {} and place it in the woven container",
    "take {} over to the container with the handle and let go",
)
_OBJECTS = {
    "alphabet soup": (
        ("the can with letters of pasta in it", "the tin of letter noodles in broth"),
        ("I want something warm with letters to spoon up, pack it for me",
         "the children want to eat letters for lunch, put that in the shopping"),
    ),
    "cream cheese": (
        ("the small box with the white spread", "the box of soft white dairy spread"),
        ("I need something creamy and white for my bagel, pack it for me",
         "something soft and white to spread on bread is missing in the shopping"),
    ),
    "salad dressing": (
        ("the bottle that is poured over lettuce", "the bottle with the liquid for lettuce"),
        ("the lettuce tastes of nothing, pack what helps",
         "something to pour over lettuce is missing in the shopping"),
    ),
    "bbq sauce": (
        ("the bottle with the brown sauce for grilled meat", "the bottle of smoky brown sauce"),
        ("we will grill ribs tonight, pack what goes on them",
         "something smoky for grilled meat is missing in the shopping"),
    ),
    "ketchup": (
        ("the red bottle that goes with fries", "the bottle of red sauce for hot dogs"),
        ("I will eat fries and want something red on them, pack it for me",
         "something red for hot dogs is missing in the shopping"),
    ),
    "tomato sauce": (
        ("the can with the red sauce for pasta", "the tin of sauce made of red fruits"),
        ("there will be spaghetti tonight, pack the can that goes on them",
         "the can for the pasta is missing in the shopping"),
    ),
    "butter": (
        ("the flat packet of yellow fat", "the packet of what is made from cream by churning"),
        ("I want something yellow under my jam, pack it for me",
         "the fat for the cake dough is missing in the shopping"),
    ),
    "milk": (
        ("the carton with the white drink", "the carton of what cows give"),
        ("I need something white to pour over my cereal, pack it for me",
         "the white drink for the coffee is missing in the shopping"),
    ),
    "chocolate pudding": (
        ("the box with the brown dessert", "the box of sweet brown cream powder"),
        ("I want a sweet brown dessert tonight, pack it for me",
         "the dessert with cocoa is missing in the shopping"),
    ),
    "orange juice": (
        ("the carton with the drink of citrus fruits", "the carton of sweet fruit drink"),
        ("I want vitamins to drink at breakfast, pack them for me",
         "the fruit drink for breakfast is missing in the shopping"),
    ),
}  # fmt: skip

# --- libero_spatial -------------------------------------------------------------------------------

_SPATIAL_WORDS = (
    "put the black bowl {} onto the plate",
    "grab the black bowl {} and set it down on the plate",
    "move the black bowl {} over to the plate",
    "the black bowl {} belongs on the plate, take it there",
)
_SPATIAL_DESCRIBED = (
    "pick up the dark round dish {} and place it on the flat white dish",
    "take the deep black dish {} to the flat round dish and let go of it there",
    "lift the dark vessel for soup {} and put it where a main course is served",
    "bring the hollow black thing {} to the flat round thing that food is eaten from",
)
_SPATIAL_SITUATIONS = (
    "soup is served in the dark dish {}, on top of the flat white one: prepare that",
    "I want the dark dish {} stacked on the flat one under it",
    "the flat white dish is still empty, the dark one {} should stand on it",
    "the guest gets the dark dish {}, with the flat one beneath it",
)
_PLACES = {
    "between the plate and the ramekin": "between the plate and the ramekin",
    "from table center": "at the center of the table",
    "in the top drawer of the wooden cabinet": "in the top drawer of the wooden cabinet",
    "next to the cookie box": "next to the cookie box",
    "next to the plate": "next to the plate",
    "next to the ramekin": "next to the ramekin",
    "on the cookie box": "on the cookie box",
    "on the ramekin": "on the ramekin",
    "on the stove": "on the stove",
    "on the wooden cabinet": "on the wooden cabinet",
}

# --- libero_goal and libero_10, all by hand -------------------------------------------------------

_BY_HAND: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "open the middle drawer of the cabinet": (
        ("pull out the middle drawer of the cabinet", "pull the cabinet's middle drawer open",
         "slide the drawer in the middle of the cabinet open",
         "the middle drawer of the cabinet should be open"),
        ("open the second of the three compartments that slide out",
         "pull the handle that is neither the highest nor the lowest",
         "slide out the part of the furniture between its top and bottom ones",
         "open what lies under the highest sliding box and above the lowest"),
        ("I have to reach what lies in the second compartment from above",
         "something fell into the compartment in the middle, let me see into it",
         "the things in the middle compartment need air",
         "let me look into the compartment at half the height"),
    ),
    "open the top drawer and put the bowl inside": (
        ("pull out the top drawer and lay the bowl in it", "slide the top drawer open and put the "
         "bowl into it", "the bowl belongs in the top drawer, open it and put it there",
         "open the uppermost drawer, then place the bowl in there"),
        ("open the highest compartment that slides out and put the dark round dish into it",
         "pull the highest handle, then lay the dark dish into what has opened",
         "the hollow dish goes into the highest sliding box, which is still shut",
         "slide out the highest part of the furniture and put the soup dish inside"),
        ("hide the dish for soup in the highest compartment, which is shut",
         "nobody should see the dark dish, the highest compartment is a good place for it",
         "tidy the soup dish away into the highest compartment",
         "after the meal the dark dish goes back to the highest compartment"),
    ),
    "push the plate to the front of the stove": (
        ("shove the plate in front of the stove", "slide the plate over to the front of the stove",
         "move the plate to the front of the stove by pushing it",
         "the plate should be in front of the stove, push it there"),
        ("push the flat round dish before the thing that heats food",
         "shove the dish for main courses until it is in front of the burner",
         "slide the flat dish to the near side of the cooker",
         "without lifting it, move the flat dish in front of the cooker"),
        ("food will soon come from the burner, have the flat dish ready before it, do not lift it",
         "I serve from the cooker, so slide the flat dish before it",
         "whoever cooks needs the flat dish within reach before the burner",
         "the flat dish is too heavy to lift, but it is needed before the burner"),
    ),
    "put the bowl on the plate": (
        ("place the bowl onto the plate", "set the bowl down on top of the plate",
         "move the bowl over to the plate and put it there", "the bowl belongs on the plate"),
        ("put the dark round dish on the flat one", "stack the hollow dish on the flat one",
         "take the dish for soup and put it on the dish for main courses",
         "lift the deep dish onto the shallow one"),
        ("soup is served with a flat dish below, prepare that",
         "a drop may run down the dark dish, so something flat should be under it",
         "the flat dish is empty, give it the deep one to carry",
         "stack the two dishes, the deep one above"),
    ),
    "put the bowl on the stove": (
        ("place the bowl onto the stove", "set the bowl down on the stove",
         "move the bowl over to the stove and put it there", "the bowl belongs on the stove"),
        ("put the dark round dish on the thing that heats food",
         "take the dish for soup and put it on the burner",
         "lift the deep dish onto the cooker", "the hollow dish goes on top of the cooker"),
        ("what is in the dark dish should get warm, so put it where that happens",
         "the soup is cold, bring its dish to the place where food gets hot",
         "warm up the deep dish", "the content of the dark dish has to be cooked"),
    ),
    "put the bowl on top of the cabinet": (
        ("place the bowl on the top of the cabinet", "set the bowl down on the cabinet",
         "move the bowl up onto the cabinet", "the bowl belongs on top of the cabinet"),
        ("put the dark round dish on the furniture with the drawers",
         "take the dish for soup and put it above all the drawers",
         "lift the deep dish onto the box with three handles",
         "the hollow dish goes to the highest surface"),
        ("the cat must not reach the dark dish, so put it on the highest place",
         "I need the deep dish out of the way, above the drawers",
         "show the dark dish to everybody from the highest place",
         "make room on the table: the deep dish can stand above the drawers"),
    ),
    "put the cream cheese in the bowl": (
        ("place the cream cheese into the bowl", "drop the cream cheese in the bowl",
         "move the cream cheese over to the bowl and put it in", "the cream cheese belongs in the "
         "bowl"),
        ("put the small box with the white spread into the dark round dish",
         "take the soft dairy product to the dish for soup and let go",
         "lift the box of spread and drop it into the deep dish",
         "the box with what goes on a bagel goes into the hollow dish"),
        ("I will mix a dip of the soft white spread in the dark dish, get it ready",
         "the spread for the bagels is served in the deep dish",
         "what I spread on bread should not lie on the table but in the deep dish",
         "the deep dish is empty, the soft dairy product should be inside"),
    ),
    "put the wine bottle on the rack": (
        ("place the wine bottle onto the rack", "lay the wine bottle on the rack",
         "move the wine bottle over to the rack and put it there",
         "the wine bottle belongs on the rack"),
        ("put the tall glass vessel onto the wooden stand",
         "take what holds fermented grape juice and lay it on the stand",
         "lift the tall vessel with the long neck onto its holder",
         "the vessel with a cork goes onto the wooden holder"),
        ("the drink made of grapes should be stored lying down, put it where that works",
         "nobody drinks tonight, so store the tall vessel on its holder",
         "put the drink for adults back onto its holder",
         "the grape drink must not fall over, its holder is made for that"),
    ),
    "put the wine bottle on top of the cabinet": (
        ("place the wine bottle on the top of the cabinet", "stand the wine bottle on the cabinet",
         "move the wine bottle up onto the cabinet",
         "the wine bottle belongs on top of the cabinet"),
        ("put the tall glass vessel on the furniture with the drawers",
         "take what holds fermented grape juice and stand it above the drawers",
         "lift the tall vessel with the long neck onto the box with three handles",
         "the vessel with a cork goes to the highest surface"),
        ("children must not reach the grape drink, so put it on the highest place",
         "the drink for adults should stand above the drawers tonight",
         "make room on the table: the tall vessel can stand above the drawers",
         "show the guests the grape drink from the highest place"),
    ),
    "turn on the stove": (
        ("switch on the stove", "turn the stove's knob so that it is on", "start the stove",
         "the stove should be on"),
        ("switch on the thing that heats food", "turn the knob of the burner",
         "make the cooker hot", "activate the device that pans stand on"),
        ("I want to fry an egg in a minute, get the heat ready",
         "it takes time until a pan is hot, so start now",
         "the cooker is still cold, change that", "we are going to cook, so prepare the heat"),
    ),
    "turn on the stove and put the moka pot on it": (
        ("switch on the stove and place the moka pot on it", "start the stove, then set the moka "
         "pot down on it", "turn the stove's knob and move the moka pot onto the stove",
         "the stove should be on, with the moka pot on top"),
        ("switch on the thing that heats food and stand the small metal pot for coffee on it",
         "turn the knob of the burner and put the coffee maker on top",
         "make the cooker hot and place the Italian coffee vessel on it",
         "activate the burner, then lift the metal coffee maker onto it"),
        ("I want an espresso, so heat up what it is made in",
         "the coffee must boil: the burner is still off and its pot is not on it",
         "make coffee: switch on the heat and put its vessel there",
         "guests would like coffee, start cooking it"),
    ),
    "put the black bowl in the bottom drawer of the cabinet and close it": (
        ("place the black bowl in the lowest drawer of the cabinet and shut it",
         "lay the black bowl into the cabinet's bottom drawer, then push the drawer shut",
         "move the black bowl into the bottom drawer of the cabinet and close the drawer",
         "the black bowl belongs in the closed bottom drawer of the cabinet"),
        ("put the dark round dish into the lowest sliding box and push that in",
         "lay the dish for soup into the compartment that is open and shut it",
         "lift the deep dish into the lowest compartment, then push its handle",
         "the hollow dish goes into the lowest part of the furniture, which is shut afterwards"),
        ("hide the dark dish in the lowest compartment so that nobody sees it",
         "tidy the soup dish away into the lowest compartment and leave nothing open",
         "after the meal the deep dish is locked away at the bottom",
         "dust must not reach the dark dish, so put it down there and shut it in"),
    ),
    "put the yellow and white mug in the microwave and close it": (
        ("place the yellow and white mug in the microwave and shut it",
         "set the yellow and white mug down inside the microwave, then close its door",
         "move the yellow and white mug into the microwave and close the microwave",
         "the yellow and white mug belongs in the closed microwave"),
        ("put the cup with two colors into the box that heats food and shut its door",
         "stand the drinking vessel in white and yellow in the oven with the glass door, close it",
         "lift the cup that has yellow on it into the small oven, then push the door",
         "the cup with a handle in yellow and white goes into the oven, which is shut afterwards"),
        ("my tea in the cup with two colors is cold, prepare to warm it",
         "get the cup with yellow on it ready to be heated by waves, door included",
         "the drink in the two-colored cup should be warmed, so nothing may stay open",
         "prepare the small oven with the two-colored cup inside, ready to start"),
    ),
    "put both moka pots on the stove": (
        ("place the two moka pots on the stove", "set both moka pots down on the stove",
         "move both of the moka pots over to the stove and put them there",
         "both moka pots belong on the stove"),
        ("put the two small metal pots for coffee on the thing that heats food",
         "stand both coffee makers on the burner",
         "lift each Italian coffee vessel onto the cooker",
         "the pair of metal coffee makers goes onto the cooker"),
        ("many guests want espresso, so everything that makes it should get hot",
         "one pot of coffee is not enough, heat two of them",
         "make a double amount of coffee, the vessels for it are on the table",
         "whatever coffee is brewed in should be where it gets hot"),
    ),
    "put both the alphabet soup and the cream cheese box in the basket": (
        ("place the alphabet soup and the cream cheese box into the basket",
         "drop both the cream cheese box and the alphabet soup in the basket",
         "move the alphabet soup to the basket, and the cream cheese box too",
         "the alphabet soup and the cream cheese box belong in the basket"),
        ("put the can with letters of pasta and the small box of white spread in the container",
         "take the tin of letter noodles and the soft dairy product to the woven container",
         "the can with letters and the box for bagels go into the container with the handle",
         "lift the letter noodles and the white spread into the woven thing"),
        ("pack a lunch with letters to eat and something creamy for the bread",
         "the children want to eat letters, and I want a bagel: take both along",
         "two things are missing in the shopping: letters in broth and a white spread",
         "for the trip we need the noodles with letters and what goes on a bagel"),
    ),
    "put both the alphabet soup and the tomato sauce in the basket": (
        ("place the alphabet soup and the tomato sauce into the basket",
         "drop both the tomato sauce and the alphabet soup in the basket",
         "move the alphabet soup to the basket, and the tomato sauce too",
         "the alphabet soup and the tomato sauce belong in the basket"),
        ("put the can with letters of pasta and the can of red sauce in the container",
         "take the tin of letter noodles and the tin for spaghetti to the woven container",
         "the can with letters and the can of red fruits go into the container with the handle",
         "lift the letter noodles and the red sauce into the woven thing"),
        ("pack letters to eat for the children and the can that goes on spaghetti",
         "two cans are missing in the shopping: letters in broth and what pasta needs",
         "there will be spaghetti tomorrow and letters to spoon up today, take both along",
         "for the trip we need the noodles with letters and a can for the pasta"),
    ),
    "put both the cream cheese box and the butter in the basket": (
        ("place the cream cheese box and the butter into the basket",
         "drop both the butter and the cream cheese box in the basket",
         "move the cream cheese box to the basket, and the butter too",
         "the cream cheese box and the butter belong in the basket"),
        ("put the small box of white spread and the packet of yellow fat in the container",
         "take the soft dairy product and what is churned from cream to the woven container",
         "the box for bagels and the flat yellow packet go into the container with the handle",
         "lift the white spread and the yellow fat into the woven thing"),
        ("pack everything that can be spread on bread",
         "two things for the bread are missing in the shopping: something white, something yellow",
         "we will eat bread at the lake, take along both things that go on it",
         "for breakfast we need what goes on a bagel and what goes under jam"),
    ),
    "put the white mug on the left plate and put the yellow and white mug on the right plate": (
        ("place the white mug on the left plate and the yellow and white mug on the right one",
         "the white mug belongs on the left plate, the yellow and white mug on the right plate",
         "set the white mug down on the left plate, then the yellow and white mug on the right "
         "plate",
         "on the left plate put the white mug, on the right plate the yellow and white mug"),
        ("put the plain cup on the flat dish at the left and the cup with two colors on the other",
         "the cup of one color goes to the left dish, the cup of two colors to the right dish",
         "stand the cup without yellow on the left dish and the cup with yellow on the right one",
         "each cup gets a dish: the plain one left, the one with yellow right"),
        ("the guest at the left drinks from the plain cup, the other from the one with yellow: "
         "serve them",
         "lay the table for two, the cup with yellow is for whoever sits at the right",
         "every cup needs a dish below it, and the plain one must not be at the right",
         "serve coffee: the plain cup at the left, the other cup opposite, each on a dish"),
    ),
    "put the white mug on the plate and put the chocolate pudding to the right of the plate": (
        ("place the white mug on the plate and the chocolate pudding to the right of it",
         "set the white mug down on the plate, then the chocolate pudding right of the plate",
         "the white mug belongs on the plate, the chocolate pudding to the right of the plate",
         "on the plate put the white mug, and right next to it the chocolate pudding"),
        ("put the plain cup on the flat dish and the box of brown dessert right of the dish",
         "the cup of one color goes on the dish, the sweet brown cream to its right",
         "stand the plain cup on the round dish and lay the dessert at the dish's right side",
         "lift the plain cup onto the dish and move the box with cocoa to the right of the dish"),
        ("serve a drink in the plain cup on its dish, with dessert at the right hand",
         "I drink with a dish below the plain cup and reach for the dessert with my right hand",
         "lay the table for coffee and something sweet: the sweet thing is right of the dish",
         "the plain cup needs a dish below it, and the box with cocoa should be at its right"),
    ),
    "pick up the book and place it in the back compartment of the caddy": (
        ("put the book in the back compartment of the caddy",
         "grab the book and slide it into the caddy's rear compartment",
         "move the book into the compartment at the back of the caddy",
         "the book belongs in the back compartment of the caddy"),
        ("pick up what has pages and place it in the rear part of the organizer",
         "take the bound paper and put it into the farthest slot of the holder",
         "lift the thing to read into the slot behind the others",
         "the bound pages go into the back of the box with several slots"),
        ("I have finished reading, so tidy that up, at the very back of the organizer",
         "the desk should be clear: what I read goes to the rear slot",
         "whatever has pages is kept in the farthest slot",
         "nobody reads any more today, put the pages behind the other slots"),
    ),
}  # fmt: skip


@functools.cache
def rewritten(instruction: str, level: int) -> tuple[str, ...]:
    """Returns the rewritten instructions of a level; none if the task is not one of LIBERO's forty.

    Args:
        instruction: The task's own instruction, in lower case.
        level: 1 to 5, see this module; 2 and 3 exist for every task.
    """
    if level == 2:
        return tuple(sentence.format(instruction) for sentence in SENTENCES)
    if level == 3:
        return tuple(distraction.format(instruction) for distraction in DISTRACTIONS)
    return _of_liberos_tasks().get(instruction, {}).get(level, ())


@functools.cache
def _of_liberos_tasks() -> dict[str, dict[int, tuple[str, ...]]]:
    texts = {
        instruction: {1: words, 4: described, 5: situations}
        for instruction, (words, described, situations) in _BY_HAND.items()
    }
    for name, (descriptions, situations) in _OBJECTS.items():
        texts[f"pick up the {name} and place it in the basket"] = {
            1: tuple(words.format(name) for words in _OBJECT_WORDS),
            4: tuple(frame.format(what) for what in descriptions for frame in _OBJECT_DESCRIBED),
            5: (*situations, *(f"{text}, please" for text in situations)),
        }
    for place, there in _PLACES.items():
        texts[f"pick up the black bowl {place} and place it on the plate"] = {
            level: tuple(frame.format(there) for frame in frames)
            for level, frames in ((1, _SPATIAL_WORDS), (4, _SPATIAL_DESCRIBED),
                                  (5, _SPATIAL_SITUATIONS))
        }  # fmt: skip
    return texts
