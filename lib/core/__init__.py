"""The base layer: parameters, records, pictures, geometry, errors, and how stages run."""
