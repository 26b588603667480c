//! Open-loop load: requests at a constant arrival rate, free of coordinated omission.
