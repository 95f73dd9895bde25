"""Operations with several implementations: one plain, the specification, and faster ones judged against it."""
