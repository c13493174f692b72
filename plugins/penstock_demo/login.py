"""The demo's login flow: checks user and password, and issues a token for the calling consumer."""

from __future__ import annotations

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from penstock import Call, HttpTrigger, Pipeline, PipelineError, Rate, Token

# A password can be guessed, so each call counts before its handler checks one.
GUESSES = Rate("60/minute")
login = Pipeline(
    "login",
    version="1.0.0",
    summary="Signs a person in",
    trigger=HttpTrigger(api_key=True, login=True, rate=GUESSES),
)

_COST = "$argon2id$v=19$m=19456,t=2,p=1$"
USERS = {
    "demo": (
        _COST + "7AqB4I7O9qI2WTZA5/maNA$Sy5tWQjLX35Y0gsOldLTL89Sz+cG0L0i4EcRQmzfrmc",
        ("orders:read", "orders:write"),
    ),
    "reader": (
        _COST + "RhUz03vZ2xP7R+vW4Gp6uw$v3TiEYqSNuNGm5sbaSEJ2NU9/NGEddnc7Rv5Jg1/ve4",
        ("orders:read",),
    ),
}
# Verified for an unknown user, so that it costs as much time as a wrong password.
UNKNOWN_USER = (_COST + "bhZKEge9GoscOar83Yg4wA$hKc8yuhYsZGbtkaeOQftZMoCqcBW/Lrdic/n8A5PBIE", ())
_hasher = PasswordHasher()


class Credentials(msgspec.Struct, forbid_unknown_fields=True):
    """The person who signs in."""

    user: str
    password: str

    def __repr__(self) -> str:
        """Return the user without the password."""
        return f"Credentials(user={self.user!r})"


@login.post("/")
def sign_in(call: Call, credentials: Credentials) -> Token:
    """Return a token for the person, bound to the calling consumer."""
    hashed, scopes = USERS.get(credentials.user, UNKNOWN_USER)
    try:
        _hasher.verify(hashed, credentials.password)
    except VerificationError:
        raise PipelineError(
            401, "Wrong login", "User or password is wrong.", type="wrong-login"
        ) from None
    return call.issue_token(subject=credentials.user, scopes=scopes)
