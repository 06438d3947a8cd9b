# The benchmarks in Julia. For each line "name argument ..." on the standard input this prints "name,milliseconds,answer".
# Random numbers are those of the global generator, whatever the seed, for to seed it takes long.

using LinearAlgebra: BLAS, tr
using Printf: @printf
using Random: seed!
using Statistics: mean, std

function recursion_fibonacci(n, count)
    total = 0
    for each in fill(n, count)
        total += fib(each)
    end
    return total
end

fib(n) = n < 2 ? n : fib(n - 1) + fib(n - 2)

function parse_integers(count, seed)
    total = 0
    for _ in 1:count
        number = rand(UInt32)
        parsed = parse(UInt32, string(number, base = 16), base = 16)
        parsed == number || return -1
        total += parsed
    end
    return total
end

function userfunc_mandelbrot(rows, columns)
    xs, ys = range(-2.0, step = 0.1, length = columns), range(-1.0, step = 0.1, length = rows)
    return sum([escape_time(complex(x, y)) for y in ys, x in xs])
end

function escape_time(z)
    c = z
    for n in 0:79
        real(z) * real(z) + imag(z) * imag(z) > 4 && return n
        z = z^2 + c
    end
    return 80
end

function recursion_quicksort(n, seed)
    a = rand(n)
    quicksort!(a, 1, n)
    return issorted(a) ? a[n÷2+1] : NaN
end

function quicksort!(a, lo, hi)
    i, j = lo, hi
    while i < hi
        pivot = a[(lo+hi)>>>1]
        while i <= j
            while a[i] < pivot
                i += 1
            end
            while a[j] > pivot
                j -= 1
            end
            if i <= j
                a[i], a[j] = a[j], a[i]
                i, j = i + 1, j - 1
            end
        end
        lo < j && quicksort!(a, lo, j)
        lo, j = i, hi
    end
end

const pi_sum = Ref(0.0) # global, so that all sums are made

function iteration_pi_sum(times, terms)
    for _ in 1:times
        total = 0.0
        for k in 1:terms
            total += 1.0 / (k * k)
        end
        pi_sum[] = total
    end
    return pi_sum[]
end

function matrix_statistics(count, seed)
    v, w = zeros(count), zeros(count)
    for i in 1:count
        a, b, c, d = (randn(5, 5) for _ in 1:4)
        P = [a b c d]
        Q = [a b; c d]
        v[i] = tr((P'P)^4)
        w[i] = tr((Q'Q)^4)
    end
    return std(v) / mean(v), std(w) / mean(w)
end

function matrix_multiply(n, seed)
    return tr(rand(n, n) * rand(n, n))
end

function print_to_file(path, count)
    open(path, "w") do file
        for i in 0:count-1
            @printf(file, "%d %d\n", i, i + 1)
        end
    end
end

function check_file(count)
    mktemp() do path, _
        print_to_file(path, count)
        read(path, String) == join("$i $(i + 1)\n" for i in 0:count-1) || error("print_to_file wrote something else")
    end
end

function timed(f, arguments...)
    started = time_ns()
    answer = f(arguments...)
    return (time_ns() - started) / 1e6, answer
end

argument(word) = something(tryparse(Int, word), String(word))

function serve()
    BLAS.set_num_threads(1)
    seed!(1776)
    check_file(100_000)
    for line in eachline(stdin)
        name, words = Iterators.peel(split(line))
        milliseconds, answer = timed(getfield(Main, Symbol(name)), map(argument, collect(words))...)
        println(name, ",", milliseconds, ",", answer)
        flush(stdout)
    end
end

serve()
