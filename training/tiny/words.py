"""Words of the letter-counting questions."""

HELD_OUT_WORDS = frozenset(
    ["raspberry", "strawberry", "butterfly", "committee", "assessment", "tomorrow", "mississippi", "banana"]
)
"""Words that no training document contains, so that a right answer about them is not memory."""

TRAINING_WORDS = tuple(
    sorted(
        {
            *"apple apricot orange cherry grape melon lemon mango peach pear plum berry blueberry".split(),
            *"cranberry blackberry gooseberry elderberry mulberry currant papaya coconut pineapple".split(),
            *"carrot potato tomato onion garlic lettuce cabbage celery spinach pepper parsley radish".split(),
            *"bread butter cheddar mozzarella lasagna noodle dumpling pancake pretzel porridge".split(),
            *"tree street green sleep sheep wheel cheese coffee toffee better letter bottle little".split(),
            *"middle puddle puzzle paddle saddle kettle rattle settle waffle giggle wiggle pebble".split(),
            *"river mirror error terror carry marry hurry sorry arrow narrow sparrow borrow barrel".split(),
            *"squirrel quarrel horror current correct surround terrace corridor warrior referral".split(),
            *"school book moon spoon balloon cartoon kangaroo bamboo shampoo cookie football raccoon".split(),
            *"happy puppy floppy copper supper slipper upper ripple supply shopping trapped".split(),
            *"tennessee alabama canada panama bahamas havana savanna nevada alaska".split(),
            *"computer program network server memory model token budget answer question reason".split(),
            *"thinking scaling simple vector matrix tensor kernel compiler terminal browser".split(),
            *"address assess possess success process access discuss compress express progress".split(),
            *"bookkeeper accommodate occurrence parallel millennium embarrass necessary recommend".split(),
            *"window winter summer spring autumn monday tuesday wednesday thursday friday saturday".split(),
            *"january february september october november december eleven seventeen nineteen hundred".split(),
            *"elephant giraffe rabbit hamster monkey donkey turtle grasshopper dragonfly otter".split(),
            *"paper pencil eraser ruler marker folder printer scissors stapler calendar".split(),
            *"engine rocket planet saturn jupiter mercury neptune galaxy meteor asteroid".split(),
            *"doctor teacher farmer baker painter singer dancer writer reader engineer".split(),
            *"kitchen bedroom bathroom garden garage balcony ceiling cellar staircase".split(),
            *"level radar civic refer rotor kayak noon deed peep racecar".split(),
            *"assassin possession cassette dessert massage message passage classic lesson".split(),
        }
        - HELD_OUT_WORDS
    )
)
