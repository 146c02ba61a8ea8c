/* Starts programs without waiting for their exec.
 *
 * posix_spawn(3) suspends its caller until the child has called execve(2), since both use the same memory and the same
 * stack (vfork). Here the child has a stack of its own, from a table of jobs, so the caller goes on at once:
 *
 *     parent                                  child
 *     fill a job; block all signals
 *     clone(CLONE_VM | CLONE_CHILD_CLEARTID)  defaults for signals, signal mask, dup, prlimit, execve
 *     restore its signal mask                   failed: note the error in the job, tell the client, exit(127)
 *     close the connection, serve others      the kernel sets `ctid` to 0: the child uses this memory no more
 *     outcome(): ctid is 0, so the job is free
 *
 * Why this is safe, step by step, is said where each step is done. In general:
 *
 * - The child runs `run` only, which makes system calls by itself. It calls no function of the C library: those would
 *   write this thread's errno, take locks that another thread holds, or run what a sanitizer has added.
 * - The child writes to its stack and to its own job only. The parent writes to neither until `ctid` is 0.
 * - All else that the child reads (arguments, environment, texts) belongs to the job, or to the order, of which the job
 *   holds a reference until it is free.
 * - Descriptors, signal handlers and limits are copies (no CLONE_FILES, CLONE_SIGHAND, CLONE_THREAD), so the parent may
 *   close the connection at once, and nothing that the child sets affects the parent.
 * - If the parent is killed meanwhile, the child goes on: the memory lives until its last user has let go of it. If the
 *   parent is stopped, the child does not notice. The kernel's OOM killer kills both, as all users of one memory. On
 *   Linux before 5.16, a signal that dumps the core of one kills both as well; no core is dumped of a process that has
 *   changed its user, unless fs.suid_dumpable says so.
 * - What a thread has registered with the kernel is not the child's: it has no restartable sequences (rseq(2)), no list
 *   of robust futexes, no alternate signal stack, and a shadow stack of its own where the processor has such.
 * - After a fork of this process, the copy has no child that uses *its* memory: it forgets all jobs.
 *
 * strace and perf follow such a child like any other, and programs run as ever while gdb is attached to this process.
 * But gdb takes the child for that of a fork, and as it detaches from it, it removes its breakpoints from the memory that
 * this process uses, too: from the first start on they are not hit. With `set detach-on-fork off` they stay; each child
 * then waits until gdb lets it go on, as `set schedule-multiple on` does. From its exec (`catch exec`) it can be
 * detached, since its memory is its own then.
 *
 * valgrind refuses a clone with CLONE_VM alone. Compiled with SPAWN_BY_FORK the child is a fork, which tells no error.
 */
#define _GNU_SOURCE
#define Py_LIMITED_API 0x030B0000 /* one file for Python 3.11 and all later ones */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    STACK = 16384,       /* bytes; `run` needs some hundred, and no signal handler ever runs on this stack */
    LIMITS = 16,         /* kinds of resource limits that Linux has */
    REASONS = 256,       /* error numbers that have a text */
    SIGNALS = 64,
    KEPT = 65536,        /* bytes; a job gives larger buffers back */
    DRAINED = 65536,     /* bytes that a client has sent and that are discarded before it is told of an error */
    NO_LIMIT = -1,
};

#if !defined(__GLIBC__) || defined(__ILP32__)
#error "written for glibc's clone(3), musl's refuses CLONE_CHILD_CLEARTID: tcpdconf starts programs by posix_spawn(3)"
#endif

/* The functions of the child. Neither compiler options nor sanitizers may add calls to them, or memory that they write.
 * They become one, `run`: a function that is compiled into another one keeps what its own attributes allow. */
#define PLAIN no_stack_protector, no_instrument_function, no_profile_instrument_function, \
              no_sanitize("address", "undefined", "thread")
#define INSIDE static inline __attribute__((always_inline, PLAIN))

/* ---- System calls that leave errno alone. The kernel returns an error as -errno. ---- */

#if defined(__x86_64__)
INSIDE long call(long number, long a, long b, long c, long d, long e)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
INSIDE long call(long number, long a, long b, long c, long d, long e)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
}
#else
#error "no system calls for this processor: tcpdconf starts programs by posix_spawn(3)"
#endif

/* The kernel's own structures, of which those of the C library differ. */
struct action { /* struct sigaction; all zero is SIG_DFL, no flags, an empty mask */
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};
struct message { /* struct user_msghdr */
    void *name;
    int name_size;
    struct iovec *parts;
    size_t count;
    void *control;
    size_t control_size;
    unsigned int flags;
};

struct limit {
    int resource;
    uint64_t soft_and_hard[2]; /* struct rlimit64 */
};

/* What is the same for each program that a service starts; a capsule owns it, and nothing changes it. */
struct order {
    char **argv;          /* into `words`, with NULL at the end; the first one is the path */
    char *words;          /* each ends with a NUL */
    char **base;          /* the environment, into `variables`, with NULL at the end */
    char *variables;
    Py_ssize_t entries;   /* of `base` */
    PyObject *names;      /* of `base`, a tuple of str */
    int standard_error;   /* a descriptor, or INHERIT, or CONNECTION */
    uint64_t defaulted;   /* signals that get their default action: bit 0 is signal 1 */
    int keeps_mask;       /* false: the program has no signal blocked */
    struct limit limits[LIMITS];
    int limited;          /* how many of them are set */
    char *told;           /* what the client is told if the program cannot be run, or NULL */
    size_t told_size;
    int tells_reason;     /* and after it the error's text */
};
enum { INHERIT = -1, CONNECTION = -2 };

struct job {
    int ctid;             /* set by the parent before the clone; set to 0 by the kernel, see outcome() */
    int error;            /* written by the child: an errno, or 0 */
    int limit;            /* written by the child: the resource whose limit could not be set, or NO_LIMIT */
    int taken;            /* from start() until outcome() has found `ctid` 0, or until a fork */
    int connection;       /* changed by the child, which has a copy of it as descriptor 1 */
    uint64_t mask;        /* the program's signal mask */
    PyObject *capsule;    /* keeps `order` alive */
    const struct order *order;
    char **environment;   /* pointers into `buffer` and into the order's variables, with NULL at the end */
    size_t pointers;      /* room for as many */
    char *buffer;         /* the connection's variables, each NAME=value with a NUL */
    size_t size;          /* room in `buffer` */
    char *stack;
};

static struct job **jobs; /* their number is the most that have been taken at once; none ever moves */
static int known;
static const struct action standard;
static char *reasons[REASONS]; /* texts of errors, made at the import: strerror(3) is not for the child */
static size_t reason_sizes[REASONS];

/* ---- The child. ---- */

/* Duplicate a descriptor to 0, 1 or 2. dup3 refuses equal numbers, where only close-on-exec has to go. */
INSIDE long duplicate(int from, int to)
{
    return from == to ? call(SYS_fcntl, to, F_SETFD, 0, 0, 0) : call(SYS_dup3, from, to, 0, 0, 0);
}

/* Return 0 or an errno; in that case the program has not been executed. */
INSIDE int become(struct job *job)
{
    const struct order *order = job->order;
    long result;

    /* Handlers of this process would run on the memory that both use, as soon as the mask lets a signal through: so
     * first every caught signal gets its default action. The handlers are a copy. */
    for (int number = 1; number <= SIGNALS; number++)
        if (order->defaulted >> (number - 1) & 1)
            call(SYS_rt_sigaction, number, (long)&standard, 0, sizeof standard.mask, 0);

    /* Standard error may be descriptor 0 or 1, which the next lines replace. Then a copy is used. */
    int error_to = order->standard_error;
    if (error_to == 0 || error_to == 1) {
        result = call(SYS_fcntl, error_to, F_DUPFD_CLOEXEC, 3, 0, 0);
        if (result < 0)
            return (int)-result;
        error_to = (int)result;
    }
    for (int place = 0; place <= 1; place++)
        if ((result = duplicate(job->connection, place)) < 0)
            return (int)-result;
    job->connection = 1; /* where `tell` finds it: the next line may replace descriptor 2 */
    if (error_to == CONNECTION)
        error_to = 1;
    if (error_to != INHERIT && (result = duplicate(error_to, 2)) < 0)
        return (int)-result;

    for (int place = 0; place < order->limited; place++) {
        const struct limit *limit = &order->limits[place];
        result = call(SYS_prlimit64, 0, limit->resource, (long)limit->soft_and_hard, 0, 0);
        if (result < 0) {
            job->limit = limit->resource;
            return (int)-result;
        }
    }

    /* A signal that was sent to the child meanwhile acts now, by default: it may end the child. */
    call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&job->mask, 0, sizeof job->mask, 0);
    result = call(SYS_execve, (long)order->argv[0], (long)order->argv, (long)job->environment, 0, 0);
    return (int)-result;
}

/* Tell the client. The parent cannot, since it has closed the connection. Nothing here waits, and a client that is gone
 * raises no SIGPIPE. What the client has sent is discarded first: unread data would turn the close into a reset
 * (MSG_TRUNC, tcp(7)). */
INSIDE void tell(const struct job *job)
{
    const struct order *order = job->order;
    if (order->told == NULL)
        return;
    struct iovec parts[2];
    struct message message;
    parts[0].iov_base = order->told;
    parts[0].iov_len = order->told_size;
    message.count = 1;
    if (order->tells_reason && job->error > 0 && job->error < REASONS && reasons[job->error] != NULL) {
        parts[1].iov_base = reasons[job->error];
        parts[1].iov_len = reason_sizes[job->error];
        message.count = 2;
    }
    message.name = NULL;
    message.name_size = 0;
    message.parts = parts;
    message.control = NULL;
    message.control_size = 0;
    message.flags = 0;
    call(SYS_recvfrom, job->connection, 0, DRAINED, MSG_DONTWAIT | MSG_TRUNC, 0);
    call(SYS_sendmsg, job->connection, (long)&message, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);
    call(SYS_shutdown, job->connection, SHUT_WR, 0, 0, 0);
}

static __attribute__((noinline, PLAIN)) int run(void *argument)
{
    struct job *job = argument;
    job->error = become(job);
    tell(job);
    for (;;) /* the C library's exit would run what this process has registered for its own exit */
        call(SYS_exit_group, 127, 0, 0, 0, 0);
    return 127; /* never reached */
}

/* ---- The parent. The interpreter's lock is held everywhere, so one start is made at a time. ---- */

static const char ORDER[] = "tcpdconf.daemon.process._spawn.order";

static void forget_order(PyObject *capsule)
{
    struct order *order = PyCapsule_GetPointer(capsule, ORDER);
    PyMem_Free(order->argv);
    PyMem_Free(order->words);
    PyMem_Free(order->base);
    PyMem_Free(order->variables);
    PyMem_Free(order->told);
    Py_XDECREF(order->names);
    PyMem_Free(order);
}

/* In a process that was forked from this one: no child of ours uses its memory. What the jobs hold stays allocated. */
static void forget_jobs(void)
{
    for (int place = 0; place < known; place++) {
        jobs[place]->taken = 0;
        jobs[place]->capsule = NULL;
    }
}

/* Copy bytes that consist of strings, each with a NUL at its end, and point to each. Return their number, or -1 with an
 * exception. The caller frees both, also after an error. */
static Py_ssize_t divide(PyObject *bytes, char **copy, char ***pointers)
{
    char *from;
    Py_ssize_t size, count = 0;
    if (PyBytes_AsStringAndSize(bytes, &from, &size) < 0)
        return -1;
    if (size > 0 && from[size - 1] != '\0') {
        PyErr_SetString(PyExc_ValueError, "a string without a NUL at its end");
        return -1;
    }
    for (Py_ssize_t place = 0; place < size; place++)
        count += from[place] == '\0';
    *copy = PyMem_Malloc((size_t)size + 1);
    *pointers = PyMem_Malloc(((size_t)count + 1) * sizeof **pointers);
    if (*copy == NULL || *pointers == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(*copy, from, (size_t)size);
    char *next = *copy;
    for (Py_ssize_t place = 0; place < count; place++) {
        (*pointers)[place] = next;
        next += strlen(next) + 1;
    }
    (*pointers)[count] = NULL;
    return count;
}

/* Take over the limits, a tuple of (resource, value). Return -1 with an exception if they are none. */
static int take_limits(struct order *order, PyObject *limits)
{
    Py_ssize_t count = PyTuple_Size(limits);
    if (count < 0)
        return -1;
    if (count > LIMITS) {
        PyErr_SetString(PyExc_ValueError, "too many limits");
        return -1;
    }
    for (Py_ssize_t place = 0; place < count; place++) {
        unsigned long long value;
        struct limit *limit = &order->limits[place];
        PyObject *pair = PyTuple_GetItem(limits, place);
        if (pair == NULL || !PyArg_ParseTuple(pair, "iK", &limit->resource, &value))
            return -1;
        limit->soft_and_hard[0] = limit->soft_and_hard[1] = value;
    }
    order->limited = (int)count;
    return 0;
}

PyDoc_STRVAR(order_doc,
"order($module, /, argv, base, names, stderr, signals, keeps_mask, limits, told, tells_reason)\n"
"--\n\n"
"Prepare what is the same for each program that `start` starts.\n\n"
"Args:\n"
"    argv: the path, which is argv[0] as well, and the arguments, each with a NUL at its end.\n"
"    base: the environment, each NAME=value with a NUL at its end.\n"
"    names: a tuple of the names in `base`, in its order.\n"
"    stderr: a descriptor, or INHERIT, or CONNECTION.\n"
"    signals: those that get their default action, bit 0 for signal 1. All that this process catches are among them.\n"
"    keeps_mask: False: the program has no signal blocked; True: those that this process has blocked, except SIGCHLD.\n"
"    limits: a tuple of (resource, value), see setrlimit(2); the value becomes the soft and the hard limit.\n"
"    told: what the client is told if the program cannot be run.\n"
"    tells_reason: after `told`, tell the client the text of the error and a newline.");

static PyObject *make_order(PyObject *module, PyObject *arguments)
{
    PyObject *argv, *base, *names, *limits, *capsule;
    const char *told;
    Py_ssize_t told_size, words;
    unsigned long long signals;
    struct order *order = PyMem_Calloc(1, sizeof *order);

    (void)module;
    if (order == NULL)
        return PyErr_NoMemory();
    capsule = PyCapsule_New(order, ORDER, forget_order);
    if (capsule == NULL) {
        PyMem_Free(order);
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "OOO!iKpO!y#p:order", &argv, &base, &PyTuple_Type, &names,
                          &order->standard_error, &signals, &order->keeps_mask, &PyTuple_Type, &limits, &told, &told_size, &order->tells_reason))
        goto failed;
    /* The C library catches signal 33 as soon as there is a second thread, which may come later, and 32 likewise. */
    order->defaulted = signals | (uint64_t)3 << 31;
    words = divide(argv, &order->words, &order->argv);
    if (words < 0)
        goto failed;
    if (words == 0) {
        PyErr_SetString(PyExc_ValueError, "no program");
        goto failed;
    }
    order->entries = divide(base, &order->variables, &order->base);
    if (order->entries < 0)
        goto failed;
    if (PyTuple_Size(names) != order->entries) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "the names are not those of the environment");
        goto failed;
    }
    order->names = Py_NewRef(names);
    if (take_limits(order, limits) < 0)
        goto failed;
    if (told_size > 0) {
        order->told = PyMem_Malloc((size_t)told_size);
        if (order->told == NULL) {
            PyErr_NoMemory();
            goto failed;
        }
        memcpy(order->told, told, (size_t)told_size);
        order->told_size = (size_t)told_size;
    }
    return capsule;
failed:
    Py_DECREF(capsule);
    return NULL;
}

/* Make room for `more` bytes behind `used` in the job's buffer. Return -1 with an exception if there is no memory. */
static int make_room(struct job *job, size_t used, size_t more)
{
    if (job->size - used >= more)
        return 0;
    size_t size = 2 * (used + more);
    char *buffer = PyMem_Realloc(job->buffer, size);
    if (buffer == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    job->buffer = buffer;
    job->size = size;
    return 0;
}

/* Append text and `end` to the job's buffer, as UTF-8; surrogate escapes become the original bytes. */
static int append(struct job *job, size_t *used, PyObject *text, char end)
{
    Py_ssize_t size;
    PyObject *encoded = NULL;
    const char *bytes = PyUnicode_AsUTF8AndSize(text, &size);
    int result = -1;

    if (bytes == NULL) { /* surrogates, or no text */
        PyErr_Clear();
        encoded = PyUnicode_AsEncodedString(text, "utf-8", "surrogateescape");
        if (encoded == NULL)
            return -1;
        bytes = PyBytes_AsString(encoded);
        size = PyBytes_Size(encoded);
    }
    if (memchr(bytes, '\0', (size_t)size) != NULL) /* a program would see the end of the variable there */
        PyErr_SetString(PyExc_ValueError, "embedded null byte");
    else if (make_room(job, *used, (size_t)size + 1) == 0) {
        memcpy(job->buffer + *used, bytes, (size_t)size);
        job->buffer[*used + (size_t)size] = end;
        *used += (size_t)size + 1;
        result = 0;
    }
    Py_XDECREF(encoded);
    return result;
}

/* Make the program's environment: that of the order, except for names that the connection's variables have, and those.
 * Return -1 with an exception if it cannot be made. */
static int make_environment(struct job *job, const struct order *order, PyObject *variables)
{
    PyObject *name, *value;
    Py_ssize_t position = 0, added = PyDict_Size(variables), place;
    size_t used = 0, count = 0;

    if (added < 0)
        return -1;
    while (PyDict_Next(variables, &position, &name, &value))
        if (append(job, &used, name, '=') < 0 || append(job, &used, value, '\0') < 0)
            return -1;
    if (job->pointers < (size_t)(order->entries + added) + 1) {
        size_t wanted = (size_t)(order->entries + added) + 1;
        char **environment = PyMem_Realloc(job->environment, wanted * sizeof *environment);
        if (environment == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        job->environment = environment;
        job->pointers = wanted;
    }
    for (place = 0; place < order->entries; place++) {
        int again = PyDict_Contains(variables, PyTuple_GetItem(order->names, place));
        if (again < 0)
            return -1;
        if (!again)
            job->environment[count++] = order->base[place];
    }
    for (char *next = job->buffer; added > 0; added--) {
        job->environment[count++] = next;
        next += strlen(next) + 1;
    }
    job->environment[count] = NULL;
    return 0;
}

/* Make a job, whose stack has a page below it that faults. Return NULL with an exception if there is no memory. */
static struct job *make_job(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct job **more = PyMem_Realloc(jobs, ((size_t)known + 1) * sizeof *jobs);
    if (more == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    jobs = more;
    struct job *job = PyMem_Calloc(1, sizeof *job);
    if (job == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    char *found = mmap(NULL, STACK + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (found == MAP_FAILED || mprotect(found, page, PROT_NONE) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        if (found != MAP_FAILED)
            munmap(found, STACK + page);
        PyMem_Free(job);
        return NULL;
    }
    job->stack = found + page;
    jobs[known++] = job;
    return job;
}

/* Clone the child of a job that is ready; return its pid, or -errno. */
static long launch(struct job *job, int keeps_mask)
{
    const uint64_t all = ~(uint64_t)0;
    uint64_t before;
    long pid;

    /* No signal may arrive in the child before its handlers are the default ones. The C library's own signals (32, 33)
     * count as well, which its sigfillset(3) leaves out. */
    call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&before, sizeof all, 0);
    job->mask = keeps_mask ? before & ~((uint64_t)1 << (SIGCHLD - 1)) : 0;
    job->error = 0;
    job->limit = NO_LIMIT;
    /* Not 0 before the clone: afterwards the kernel may have set it to 0 already. */
    __atomic_store_n(&job->ctid, 1, __ATOMIC_RELEASE);
#ifdef SPAWN_BY_FORK
    pid = fork();
    if (pid == 0)
        run(job);
    __atomic_store_n(&job->ctid, 0, __ATOMIC_RELEASE);
#else
    /* The child has the thread pointer of this thread, since there is no CLONE_SETTLS, and reads nothing by it. In the
     * child the wrapper of the C library only calls `run`; it writes errno in the parent alone. */
    pid = clone(run, job->stack + STACK, CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD, job, NULL, NULL, &job->ctid);
#endif
    if (pid < 0) {
        pid = -errno;
        __atomic_store_n(&job->ctid, 0, __ATOMIC_RELAXED);
    }
    call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&before, 0, sizeof before, 0);
    return pid;
}

PyDoc_STRVAR(start_doc,
"start($module, order, connection, variables, /)\n"
"--\n\n"
"Start a program; return its pid and the number of its job.\n\n"
"The program gets the descriptor `connection` as standard input and output. The caller may close it at once. It asks\n"
"for the `outcome` of the job until it has one. `variables`, a dict of str, override the order's environment.\n\n"
"Raises:\n"
"    OSError: no process can be started now (EAGAIN, ENOMEM).\n"
"    ValueError: a variable contains a NUL.");

static PyObject *start(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    int place = 0;

    (void)module;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "start() takes 3 arguments");
        return NULL;
    }
    const struct order *order = PyCapsule_GetPointer(arguments[0], ORDER);
    if (order == NULL)
        return NULL;
    long connection = PyLong_AsLong(arguments[1]);
    if (connection == -1 && PyErr_Occurred())
        return NULL;
    if (connection < 0 || connection > INT_MAX) {
        PyErr_SetString(PyExc_ValueError, "no descriptor");
        return NULL;
    }
    if (!PyDict_Check(arguments[2])) {
        PyErr_SetString(PyExc_TypeError, "the variables must be a dict");
        return NULL;
    }
    while (place < known && jobs[place]->taken)
        place++;
    struct job *job = place < known ? jobs[place] : make_job();
    if (job == NULL)
        return NULL;
    job->taken = 1; /* first, since what follows may collect garbage, and so run any code */
    if (make_environment(job, order, arguments[2]) < 0) {
        job->taken = 0;
        return NULL;
    }
    job->connection = (int)connection;
    job->order = order;
    long pid = launch(job, order->keeps_mask);
    if (pid < 0) {
        job->taken = 0;
        errno = (int)-pid;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    job->capsule = Py_NewRef(arguments[0]);
    return Py_BuildValue("li", pid, place);
}

PyDoc_STRVAR(outcome_doc,
"outcome($module, job, /)\n"
"--\n\n"
"Return None while the child of a job is before its exec, and then once (error, resource).\n\n"
"The error is 0 if the program has been executed, or if a signal has ended the child before. Otherwise it is an errno;\n"
"`resource` is the one whose limit could not be set, or -1. Afterwards the job may belong to another program.");

static PyObject *outcome(PyObject *module, PyObject *argument)
{
    long place = PyLong_AsLong(argument);

    (void)module;
    if (place < 0 || place >= known || !jobs[place]->taken) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "no such job");
        return NULL;
    }
    struct job *job = jobs[place];
    /* CLONE_CHILD_CLEARTID: the kernel sets `ctid` to 0 when the child has let go of this memory, by its exec or by its
     * exit. An exec that fails after that ends the child, so `run` never goes on. All that the child has written before
     * is seen then, as pthread_join(3) relies on as well, and nothing reads the job any more. */
    if (__atomic_load_n(&job->ctid, __ATOMIC_ACQUIRE) != 0)
        Py_RETURN_NONE;
    job->taken = 0;
    Py_CLEAR(job->capsule);
    if (job->size > KEPT) {
        PyMem_Free(job->buffer);
        job->buffer = NULL;
        job->size = 0;
    }
    return Py_BuildValue("ii", job->error, job->limit);
}

static PyMethodDef methods[] = {
    {"order", make_order, METH_VARARGS, order_doc},
    {"start", (PyCFunction)(void (*)(void))start, METH_FASTCALL, start_doc},
    {"outcome", outcome, METH_O, outcome_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    "_spawn",
    "Start programs without waiting for their exec; `spawn` says when this is used.",
    -1, /* the jobs belong to the process: one interpreter may use them */
    methods,
    NULL, NULL, NULL, NULL,
};

/* Make the texts of errors, each with a newline. */
static int make_reasons(void)
{
    for (int number = 1; number < REASONS; number++) {
        const char *text = strerror(number);
        size_t size = strlen(text);
        char *copy = PyMem_Malloc(size + 1);
        if (copy == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        memcpy(copy, text, size);
        copy[size] = '\n';
        reasons[number] = copy;
        reason_sizes[number] = size + 1;
    }
    return 0;
}

PyMODINIT_FUNC PyInit__spawn(void)
{
    if (make_reasons() < 0)
        return NULL;
    int error = pthread_atfork(NULL, NULL, forget_jobs);
    if (error != 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    if (PyModule_AddIntConstant(module, "INHERIT", INHERIT) < 0 ||
        PyModule_AddIntConstant(module, "CONNECTION", CONNECTION) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
