"""farcall beside other libraries: a module for each, which nothing imports unless the user does."""
