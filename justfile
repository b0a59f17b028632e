# For those who have `just`; everything is in ./dev.

[private]
default:
    @./dev help

demo *args:
    ./dev demo {{ args }}

test *args:
    ./dev test {{ args }}

kernels *args:
    ./dev kernels {{ args }}

lint:
    ./dev lint

fuzz *args:
    ./dev fuzz {{ args }}

counts *args:
    ./dev counts {{ args }}

bench *args:
    ./dev bench {{ args }}

release:
    ./dev release

dist *args:
    ./dev dist {{ args }}
