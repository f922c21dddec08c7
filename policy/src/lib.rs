//! Policy objects to compiled sets to a verdict with its trace. Pure.
