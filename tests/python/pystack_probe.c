/*
 * pystack_probe.c - lets Python tests reach agent/pystack/pystack.h.
 *
 * Not part of the package: tests/python/test_pystack.py builds it together
 * with the agent's sources, with the compiler and the headers of the Python
 * that runs the tests. A described thread is a bytes object here.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "pystack/pystack.h"

#define SYMBOLS_MAX 65536
#define INDEXES_MAX (LG_PYSTACK_DEPTH + 2)

struct state {
    struct lg_pystack *ps;
    struct lg_pystack_walker *walker;
};

/* What sample() gathers while it runs without the GIL. */
struct gathered {
    struct lg_pystack_symbol *symbols;      /* met so far, by their identity */
    uint32_t *slots;                        /* hash table of index + 1 */
    uint32_t symbol_count;
    uint32_t (*samples)[INDEXES_MAX];       /* flags, depth, symbol indexes */
    uint32_t sample_count;
    uint32_t errors[256];                   /* by errno */
    uint32_t unnamed;                       /* frames without a symbol */
};

static uint64_t
now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void
pause_us(long us)
{
    struct timespec ts = {us / 1000000, us % 1000000 * 1000};
    if (us > 0) {
        nanosleep(&ts, NULL);
    }
}

static PyObject *
raise_code(int err)
{
    errno = -err;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *
symbol_tuple(const struct lg_pystack_symbol *s)
{
    return Py_BuildValue("(s#s#i)", s->file, (Py_ssize_t)s->file_size_bytes, s->name,
                         (Py_ssize_t)s->name_size_bytes, s->line);
}

static bool
thread_from(PyObject *arg, struct lg_pystack_thread *out)
{
    char *bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(arg, &bytes, &size) < 0 || size != sizeof(*out)) {
        PyErr_SetString(PyExc_ValueError, "not a described thread");
        return false;
    }
    memcpy(out, bytes, sizeof(*out));
    return true;
}

static PyObject *
thread_bytes(const struct lg_pystack_thread *t)
{
    return PyBytes_FromStringAndSize((const char *)t, sizeof(*t));
}

/* reopen() -> (reason, gil_reason, reader) of objects made afresh. */
static PyObject *
probe_reopen(PyObject *module, PyObject *unused)
{
    (void)unused;
    struct state *st = PyModule_GetState(module);
    lg_pystack_walker_close(st->walker);
    lg_pystack_close(st->ps);
    st->walker = NULL;
    int err = lg_pystack_open(&st->ps);
    if (err != 0) {
        return raise_code(err);
    }
    err = lg_pystack_walker_open(st->ps, &st->walker);
    return Py_BuildValue("(sss)", lg_pystack_reason(st->ps), lg_pystack_gil_reason(st->ps),
                         err == 0 ? lg_pystack_walker_reader(st->walker) : "none");
}

static PyObject *
probe_reader(PyObject *module, PyObject *unused)
{
    (void)unused;
    struct state *st = PyModule_GetState(module);
    return PyUnicode_FromString(lg_pystack_walker_reader(st->walker));
}

static PyObject *
probe_after_fork(PyObject *module, PyObject *unused)
{
    (void)unused;
    struct state *st = PyModule_GetState(module);
    lg_pystack_walker_after_fork(st->walker);
    Py_RETURN_NONE;
}

static PyObject *
probe_thread_here(PyObject *module, PyObject *unused)
{
    (void)unused;
    struct state *st = PyModule_GetState(module);
    struct lg_pystack_thread t;
    int err = lg_pystack_thread_here(st->ps, &t);
    return err == 0 ? thread_bytes(&t) : raise_code(err);
}

static PyObject *
probe_thread_at(PyObject *module, PyObject *arg)
{
    struct state *st = PyModule_GetState(module);
    struct lg_pystack_thread t;
    int err = lg_pystack_thread_at(st->walker, PyLong_AsUnsignedLongLong(arg), &t);
    return err == 0 ? thread_bytes(&t) : raise_code(err);
}

/* thread_fields(thread) -> (tstate, id, root, pthread_id, native_tid) */
static PyObject *
probe_thread_fields(PyObject *module, PyObject *arg)
{
    (void)module;
    struct lg_pystack_thread t;
    if (!thread_from(arg, &t)) {
        return NULL;
    }
    return Py_BuildValue("(KKKKi)", t.tstate, t.tstate_id, t.root, t.pthread_id, t.native_tid);
}

static PyObject *
sample_list(struct state *st, const struct lg_pystack_sample *sample)
{
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < sample->depth; i++) {
        struct lg_pystack_symbol symbol;
        int err = lg_pystack_symbol(st->walker, &sample->frames[i], &symbol);
        PyObject *item = err == 0 ? symbol_tuple(&symbol) : PyLong_FromLong(err);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

/* capture_here() -> (flags, frames by the walker, flags, frames by capture_own) */
static PyObject *
probe_capture_here(PyObject *module, PyObject *unused)
{
    (void)unused;
    struct state *st = PyModule_GetState(module);
    struct lg_pystack_thread here;
    struct lg_pystack_sample walked;
    struct lg_pystack_sample own;
    int err = lg_pystack_thread_here(st->ps, &here);
    if (err == 0) {
        err = lg_pystack_capture(st->walker, &here, &walked);
    }
    if (err == 0) {
        err = lg_pystack_capture_own(st->ps, &here, &own);
    }
    if (err != 0) {
        return raise_code(err);
    }
    PyObject *first = sample_list(st, &walked);
    PyObject *second = sample_list(st, &own);
    if (first == NULL || second == NULL) {
        Py_XDECREF(first);
        Py_XDECREF(second);
        return NULL;
    }
    return Py_BuildValue("(ININ)", walked.flags, first, own.flags, second);
}

/* raw_here() -> bytes of one frame: the caller's, captured and kept. */
static PyObject *
probe_raw_here(PyObject *module, PyObject *unused)
{
    (void)unused;
    struct state *st = PyModule_GetState(module);
    struct lg_pystack_thread here;
    struct lg_pystack_sample own;
    int err = lg_pystack_thread_here(st->ps, &here);
    if (err == 0) {
        err = lg_pystack_capture_own(st->ps, &here, &own);
    }
    if (err != 0) {
        return raise_code(err);
    }
    return PyBytes_FromStringAndSize((const char *)&own.frames[0], sizeof(own.frames[0]));
}

/* symbol(raw) -> (file, name, line), or OSError(ESTALE) */
static PyObject *
probe_symbol(PyObject *module, PyObject *arg)
{
    struct state *st = PyModule_GetState(module);
    struct lg_pystack_frame raw;
    struct lg_pystack_symbol symbol;
    if (!PyBytes_Check(arg) || PyBytes_GET_SIZE(arg) != sizeof(raw)) {
        PyErr_SetString(PyExc_ValueError, "not a raw frame");
        return NULL;
    }
    memcpy(&raw, PyBytes_AS_STRING(arg), sizeof(raw));
    int err = lg_pystack_symbol(st->walker, &raw, &symbol);
    return err == 0 ? symbol_tuple(&symbol) : raise_code(err);
}

static uint32_t
symbol_index(struct gathered *g, const struct lg_pystack_symbol *symbol)
{
    uint64_t i = symbol->identity;
    for (;; i++) {
        uint32_t *slot = &g->slots[i % (2 * SYMBOLS_MAX)];
        if (*slot == 0) {
            if (g->symbol_count == SYMBOLS_MAX) {
                return UINT32_MAX;
            }
            g->symbols[g->symbol_count++] = *symbol;
            *slot = g->symbol_count;
        }
        if (g->symbols[*slot - 1].identity == symbol->identity) {
            return *slot - 1;
        }
    }
}

static void
take_one(struct state *st, struct lg_pystack_walker *w, const struct lg_pystack_thread *wanted,
         struct gathered *g)
{
    struct lg_pystack_thread thread = {0};
    struct lg_pystack_sample sample;
    int err = 0;
    if (wanted != NULL) {
        thread = *wanted;
    }
    else {
        uint64_t holder = 0;
        uint64_t deadline_ns = now_ns() + 10000000;
        while ((!lg_pystack_gil_held(st->ps, &holder) || holder == 0) && now_ns() < deadline_ns) {
            sched_yield();
        }
        err = holder != 0 ? lg_pystack_thread_at(w, holder, &thread) : -ENOENT;
    }
    if (err == 0) {
        err = lg_pystack_capture(w, &thread, &sample);
    }
    if (err != 0) {
        g->errors[-err & 255]++;
        return;
    }
    uint32_t *row = g->samples[g->sample_count++];
    row[0] = sample.flags;
    row[1] = 0;
    for (uint32_t i = 0; i < sample.depth; i++) {
        struct lg_pystack_symbol symbol;
        if (lg_pystack_symbol(w, &sample.frames[i], &symbol) != 0) {
            g->unnamed++;
            g->sample_count--;              /* a stack with a hole proves nothing */
            return;
        }
        uint32_t index = symbol_index(g, &symbol);
        if (index != UINT32_MAX) {
            row[2 + row[1]++] = index;
        }
    }
}

static PyObject *
gathered_object(const struct gathered *g)
{
    PyObject *symbols = PyList_New(0);
    PyObject *samples = PyList_New(0);
    PyObject *errors = PyDict_New();
    for (uint32_t i = 0; i < g->symbol_count; i++) {
        PyObject *item = symbol_tuple(&g->symbols[i]);
        PyList_Append(symbols, item);
        Py_XDECREF(item);
    }
    for (uint32_t i = 0; i < g->sample_count; i++) {
        const uint32_t *row = g->samples[i];
        PyObject *stack = PyTuple_New(row[1]);
        for (uint32_t k = 0; k < row[1]; k++) {
            PyTuple_SetItem(stack, k, PyLong_FromUnsignedLong(row[2 + k]));
        }
        PyObject *item = Py_BuildValue("(IN)", row[0], stack);
        PyList_Append(samples, item);
        Py_XDECREF(item);
    }
    for (int e = 0; e < 256; e++) {
        if (g->errors[e] != 0) {
            PyObject *key = PyLong_FromLong(e);
            PyObject *value = PyLong_FromUnsignedLong(g->errors[e]);
            PyDict_SetItem(errors, key, value);
            Py_DECREF(key);
            Py_DECREF(value);
        }
    }
    return Py_BuildValue("(NNNI)", symbols, samples, errors, g->unnamed);
}

/* sample(thread or None for the GIL's holder, count, interval_us, delay_us)
 * -> (symbols, [(flags, indexes)], {errno: count}, frames without a name)
 * Runs without the GIL, with a walker of its own. */
static PyObject *
probe_sample(PyObject *module, PyObject *args)
{
    struct state *st = PyModule_GetState(module);
    PyObject *arg;
    unsigned int count;
    long interval_us;
    long delay_us;
    struct lg_pystack_thread thread;
    struct lg_pystack_walker *w = NULL;
    if (!PyArg_ParseTuple(args, "OIll", &arg, &count, &interval_us, &delay_us) ||
        (arg != Py_None && !thread_from(arg, &thread))) {
        return NULL;
    }
    int err = lg_pystack_walker_open(st->ps, &w);
    if (err != 0) {
        return raise_code(err);
    }
    struct gathered g = {
        .symbols = malloc(SYMBOLS_MAX * sizeof(*g.symbols)),
        .slots = calloc(2 * SYMBOLS_MAX, sizeof(*g.slots)),
        .samples = malloc((size_t)count * sizeof(*g.samples)),
    };
    PyObject *result = NULL;
    if (g.symbols != NULL && g.slots != NULL && g.samples != NULL) {
        Py_BEGIN_ALLOW_THREADS
        pause_us(delay_us);
        for (unsigned int i = 0; i < count; i++) {
            lg_pystack_begin(w);
            take_one(st, w, arg == Py_None ? NULL : &thread, &g);
            lg_pystack_end(w);
            pause_us(interval_us);
        }
        Py_END_ALLOW_THREADS
        result = gathered_object(&g);
    }
    else {
        PyErr_NoMemory();
    }
    free(g.symbols);
    free(g.slots);
    free(g.samples);
    lg_pystack_walker_close(w);
    return result;
}

/* cost(thread, rounds) -> best ns of: a capture, a capture with all names, a
 * capture by plain memory. The thread must stand still. */
static PyObject *
probe_cost(PyObject *module, PyObject *args)
{
    struct state *st = PyModule_GetState(module);
    PyObject *arg;
    int rounds;
    struct lg_pystack_thread thread;
    struct lg_pystack_sample sample;
    struct lg_pystack_symbol symbol;
    uint64_t best[3] = {UINT64_MAX, UINT64_MAX, UINT64_MAX};
    int err = 0;
    if (!PyArg_ParseTuple(args, "Oi", &arg, &rounds) || !thread_from(arg, &thread)) {
        return NULL;
    }
    for (int i = 0; i < rounds && err == 0; i++) {
        uint64_t t0 = now_ns();
        lg_pystack_begin(st->walker);
        err = lg_pystack_capture(st->walker, &thread, &sample);
        uint64_t t1 = now_ns();
        for (uint32_t k = 0; k < sample.depth && err == 0; k++) {
            err = lg_pystack_symbol(st->walker, &sample.frames[k], &symbol);
        }
        lg_pystack_end(st->walker);
        uint64_t t2 = now_ns();
        lg_pystack_capture_own(st->ps, &thread, &sample);
        uint64_t t3 = now_ns();
        best[0] = t1 - t0 < best[0] ? t1 - t0 : best[0];
        best[1] = t2 - t0 < best[1] ? t2 - t0 : best[1];
        best[2] = t3 - t2 < best[2] ? t3 - t2 : best[2];
    }
    return err == 0 ? Py_BuildValue("(KKKI)", best[0], best[1], best[2], sample.depth)
                    : raise_code(err);
}

static PyObject *
probe_gil_range(PyObject *module, PyObject *unused)
{
    (void)unused;
    struct state *st = PyModule_GetState(module);
    uint64_t start;
    uint64_t end;
    int err = lg_pystack_gil_range(st->ps, &start, &end);
    return err == 0 ? Py_BuildValue("(KK)", start, end) : raise_code(err);
}

/* gil_held() -> (held, tstate), with and then without the GIL */
static PyObject *
probe_gil_held(PyObject *module, PyObject *unused)
{
    (void)unused;
    struct state *st = PyModule_GetState(module);
    uint64_t with;
    uint64_t without;
    bool held = lg_pystack_gil_held(st->ps, &with);
    bool still;
    Py_BEGIN_ALLOW_THREADS
    still = lg_pystack_gil_held(st->ps, &without);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("(iKiK)", held, with, still, without);
}

static PyObject *
probe_collecting(PyObject *module, PyObject *unused)
{
    (void)unused;
    struct state *st = PyModule_GetState(module);
    return PyBool_FromLong(lg_pystack_collecting(st->walker));
}

/* refuse(number, ...): these system calls fail with EPERM from now on. */
static PyObject *
probe_refuse(PyObject *module, PyObject *args)
{
    (void)module;
    struct sock_filter filter[64];
    unsigned short n = 0;
    filter[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args) && n < 60; i++) {
        unsigned int nr = (unsigned int)PyLong_AsUnsignedLong(PyTuple_GET_ITEM(args, i));
        filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1);
        filter[n++] =
            (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (EPERM & 0xffff));
    }
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {n, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"reopen", probe_reopen, METH_NOARGS, NULL},
    {"reader", probe_reader, METH_NOARGS, NULL},
    {"after_fork", probe_after_fork, METH_NOARGS, NULL},
    {"thread_here", probe_thread_here, METH_NOARGS, NULL},
    {"thread_at", probe_thread_at, METH_O, NULL},
    {"thread_fields", probe_thread_fields, METH_O, NULL},
    {"capture_here", probe_capture_here, METH_NOARGS, NULL},
    {"raw_here", probe_raw_here, METH_NOARGS, NULL},
    {"symbol", probe_symbol, METH_O, NULL},
    {"sample", probe_sample, METH_VARARGS, NULL},
    {"cost", probe_cost, METH_VARARGS, NULL},
    {"gil_range", probe_gil_range, METH_NOARGS, NULL},
    {"gil_held", probe_gil_held, METH_NOARGS, NULL},
    {"collecting", probe_collecting, METH_NOARGS, NULL},
    {"refuse", probe_refuse, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pystack_probe",
    .m_size = sizeof(struct state),
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit_pystack_probe(void);

PyMODINIT_FUNC
PyInit_pystack_probe(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL) {
        return NULL;
    }
    PyModule_AddIntConstant(module, "MOVING", LG_PYSTACK_MOVING);
    PyModule_AddIntConstant(module, "CUT", LG_PYSTACK_CUT);
    PyModule_AddIntConstant(module, "DEPTH", LG_PYSTACK_DEPTH);
    PyModule_AddIntConstant(module, "SYS_process_vm_readv", SYS_process_vm_readv);
    PyModule_AddIntConstant(module, "SYS_pread64", SYS_pread64);
    PyModule_AddIntConstant(module, "SYS_pipe2", SYS_pipe2);
    PyObject *opened = probe_reopen(module, NULL);
    if (opened == NULL || PyModule_AddObject(module, "opened", opened) < 0) {
        Py_XDECREF(opened);
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
