"""What judges a text: reward models, rules in Python, judges behind a server; and labelling."""
