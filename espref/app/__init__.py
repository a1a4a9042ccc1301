"""The command ``espref``: what it reads, prints and writes."""
