"""The peers: for each its application, as its documentation recommends it, and its sender.

Their modules run in the peers' own virtual environment, with this repository on the path; what they import of the
benchmark uses nothing but the standard library.
"""
