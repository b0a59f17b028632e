# For those who have `just`; everything is in ./dev.

[private]
default:
    @./dev help

demo *args:
    ./dev demo {{ args }}

test *args:
    ./dev test {{ args }}

lint:
    ./dev lint

bench *args:
    ./dev bench {{ args }}

release:
    ./dev release
