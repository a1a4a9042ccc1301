"""The program: the command ``espref``, what it reads, prints and writes."""
