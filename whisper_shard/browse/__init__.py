"""A page of a dataset's utterances with players, to search and to sort, for the browser of this machine."""
