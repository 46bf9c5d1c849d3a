"""How readers take one large event: browsers and clients of many kinds, each asked for the same event in three ways.

``plain`` is the event on one line, ``fold`` the same through ``oversized=Fold()``, and ``fragment`` through
``oversized=Fragment()`` with a reader that joins fragments. `harness` asks, `documents` makes what is sent, `application`
sends it; the other files are the readers: a page, a program in Python, a program for Node.
"""
