"""The ground that every stage stands on: parameters, records, pictures, and the making of a stage."""
