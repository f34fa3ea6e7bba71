/*
 * pyselftest.c - does the walk say the same as Python itself?
 *
 * Runs once, under the GIL, when the extension is imported. A function in C is
 * called from the inside of recursion, generators, coroutines, lambdas and
 * callbacks; it captures its own stack both ways and compares it with what the
 * public frame API tells. A layout that differs (another patch release, an odd
 * vendor build) shows here and switches captures off, instead of showing wrong
 * stacks later. Raises nothing; the caller has put a pending exception aside.
 */
#include <Python.h>

#include <frameobject.h>

#include "pystack_impl.h"

#include <errno.h>

#define STACKS_WANTED 14        /* how often run() below calls f */
#define CUT_FROM (LG_PYSTACK_NAME_MAX - 5)      /* no shorter text was cut */
#define NAMES_COMPARED 12       /* innermost frames: the test's own */

struct selftest {
    const struct lg_pystack *ps;
    struct lg_pystack_walker *walker;
    int compared;
    const char *why;            /* of the first difference */
};

/* Lines are spread on purpose: the tables must be walked, not guessed. */
static const char source[] =
    "def recurse(n, f):\n"
    "    if n > 0:\n"
    "        return recurse(n - 1, f)\n"
    "    return f()\n"
    "def even(n, f):\n"
    "    return f() if n == 0 else odd(n - 1, f)\n"
    "def odd(n, f):\n"
    "    return even(n - 1, f)\n"
    "def generate(f):\n"
    "    for _ in range(2):\n"
    "        yield f()\n"
    "def delegate(f):\n"
    "    yield from generate(f)\n"
    "async def inner(f):\n"
    "    return f()\n"
    "async def outer(f):\n"
    "    return await inner(f)\n"
    "def drive(coroutine):\n"
    "    try:\n"
    "        coroutine.send(None)\n"
    "    except StopIteration as stop:\n"
    "        return stop.value\n"
    "class Thing:\n"
    "    def method(self, f):\n"
    "        return (lambda: f())()\n"
    "def closure(f):\n"
    "    kept = f\n"
    "    def inside():\n"
    "        return kept()\n"
    "    return inside()\n"
    "def handler(f):\n"
    "    try:\n"
    "        {}['no']\n"
    "    except KeyError:\n"
    "        return f()\n"
    "    finally:\n"
    "        f()\n"
    "def run(f):\n"
    "    recurse(5, f)\n"
    "    even(6, f)\n"
    "    list(generate(f))\n"
    "    list(delegate(f))\n"
    "    drive(outer(f))\n"
    "    Thing().method(f)\n"
    "    closure(f)\n"
    "    handler(f)\n"
    "    sorted([1], key=lambda _: f())\n"
    "    list(map(lambda _: [f() for _ in (0,)], [0]))\n"
    "    return (\n"
    "        1,\n"
    "        f(),\n"
    "    )\n";

static int run_source(struct selftest *test);
static PyObject *compare_here(PyObject *self, PyObject *unused);
static const char *compare_stack(const struct selftest *test);
static const char *compare_frame(const struct selftest *test, PyFrameObject *frame,
                                 const struct lg_pystack_frame *raw, bool with_names);
static bool has_text(PyObject *code, const char *attribute, const char *text);
static bool read_int(struct lg_pystack_walker *w, uint64_t addr, int32_t *out);
static bool thresholds_match(const struct lg_pystack *ps, struct lg_pystack_walker *walker);

const char *
lg_pystack_selftest(const struct lg_pystack *ps, struct lg_pystack_walker *walker)
{
    struct selftest test = {.ps = ps, .walker = walker};
    if (run_source(&test) != 0 && test.why == NULL) {
        test.why = "self-test could not run";
    }
    if (test.why == NULL && test.compared < STACKS_WANTED) {
        test.why = "self-test ended early";
    }
    PyErr_Clear();
    return test.why;
}

const char *
lg_pystack_selftest_gil(const struct lg_pystack *ps, struct lg_pystack_walker *walker)
{
    uint64_t holder;
    int32_t collecting;
    bool inside = ps->gil_locked >= ps->gil_start && ps->gil_locked < ps->gil_end;
    if (!inside || !lg_pystack_gil_held(ps, &holder) ||
        holder != (uint64_t)(uintptr_t)PyThreadState_Get()) {
        return "self-test: the GIL is elsewhere";
    }
    if (!read_int(walker, ps->gc_collecting, &collecting) || (collecting != 0 && collecting != 1) ||
        !thresholds_match(ps, walker)) {
        return "self-test: the collector is elsewhere";
    }
    return NULL;
}

static int
run_source(struct selftest *test)
{
    static PyMethodDef compare = {"compare_here", compare_here, METH_NOARGS, NULL};
    int err = -1;
    PyObject *result = NULL;
    PyObject *function = NULL;
    PyObject *capsule = PyCapsule_New(test, NULL, NULL);
    PyObject *globals = PyDict_New();
    PyObject *code = Py_CompileString(source, "<loopguard self-test>", Py_file_input);
    if (capsule == NULL || globals == NULL || code == NULL ||
        PyDict_SetItemString(globals, "__builtins__", PyEval_GetBuiltins()) < 0) {
        goto done;
    }
    function = PyCFunction_New(&compare, capsule);
    result = function != NULL ? PyEval_EvalCode(code, globals, globals) : NULL;
    if (result == NULL) {
        goto done;
    }
    PyObject *run = PyDict_GetItemString(globals, "run");       /* borrowed */
    Py_DECREF(result);
    result = run != NULL ? PyObject_CallFunctionObjArgs(run, function, NULL) : NULL;
    err = result != NULL ? 0 : -1;
done:
    if (globals != NULL) {
        PyDict_Clear(globals);          /* functions refer to it: a cycle */
    }
    Py_XDECREF(result);
    Py_XDECREF(function);
    Py_XDECREF(code);
    Py_XDECREF(globals);
    Py_XDECREF(capsule);
    return err;
}

static PyObject *
compare_here(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct selftest *test = PyCapsule_GetPointer(self, NULL);
    if (test == NULL) {
        return NULL;
    }
    if (test->why == NULL) {
        lg_pystack_begin(test->walker);
        test->why = compare_stack(test);
        lg_pystack_end(test->walker);
        test->compared++;
    }
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static const char *
compare_stack(const struct selftest *test)
{
    struct lg_pystack_thread here;
    struct lg_pystack_sample ours;
    struct lg_pystack_sample own;
    if (lg_pystack_thread_here(test->ps, &here) != 0 ||
        lg_pystack_capture(test->walker, &here, &ours) != 0 ||
        lg_pystack_capture_own(test->ps, &here, &own) != 0) {
        return "self-test: no stack could be taken";
    }
    if (ours.depth != own.depth || ours.flags != own.flags ||
        memcmp(ours.frames, own.frames, ours.depth * sizeof(ours.frames[0])) != 0) {
        return "self-test: the two captures differ";
    }
    const char *why = NULL;
    uint32_t i = 0;
    PyFrameObject *frame = PyEval_GetFrame();   /* borrowed */
    Py_XINCREF(frame);
    for (; frame != NULL && i < ours.depth && why == NULL; i++) {
        why = compare_frame(test, frame, &ours.frames[i], i < NAMES_COMPARED);
        PyFrameObject *back = PyFrame_GetBack(frame);   /* new reference */
        Py_DECREF(frame);
        frame = back;
    }
    bool same_depth = (frame == NULL) == ((ours.flags & LG_PYSTACK_CUT) == 0);
    Py_XDECREF(frame);
    if (why == NULL && (i != ours.depth || !same_depth)) {
        why = "self-test: depth differs from Python's";
    }
    return why;
}

static const char *
compare_frame(const struct selftest *test, PyFrameObject *frame, const struct lg_pystack_frame *raw,
              bool with_names)
{
    const char *why = NULL;
    struct lg_pystack_symbol symbol;
    int line = PyFrame_GetLineNumber(frame);
    PyCodeObject *code = PyFrame_GetCode(frame);        /* new reference */
    if ((uint64_t)(uintptr_t)code != raw->code) {
        why = "self-test: frames differ from Python's";
    }
    else if (with_names && lg_pystack_symbol(test->walker, raw, &symbol) != 0) {
        why = "self-test: a frame has no symbol";
    }
    else if (with_names && symbol.line != (line > 0 ? line : 0)) {
        why = "self-test: lines differ from Python's";
    }
    else if (with_names &&
             (!has_text((PyObject *)code, "co_filename", symbol.file) ||
              !has_text((PyObject *)code, PY_VERSION_HEX >= 0x030b0000 ? "co_qualname" : "co_name",
                        symbol.name))) {
        why = "self-test: names differ from Python's";
    }
    Py_DECREF(code);
    return why;
}

static bool
has_text(PyObject *code, const char *attribute, const char *text)
{
    PyObject *value = PyObject_GetAttrString(code, attribute);  /* new reference */
    const char *utf8 = value != NULL ? PyUnicode_AsUTF8(value) : NULL;
    /* A file name that is no UTF-8, or longer than we keep, proves nothing. */
    size_t n = strlen(text);
    bool same = utf8 == NULL || (strncmp(utf8, text, n) == 0 && (utf8[n] == '\0' || n > CUT_FROM));
    PyErr_Clear();
    Py_XDECREF(value);
    return same;
}

static bool
read_int(struct lg_pystack_walker *w, uint64_t addr, int32_t *out)
{
    return addr != 0 && lg_memread_copy(&w->mem, addr, out, sizeof(*out)) == 0;
}

/* The flag `collecting` is mostly zero, like much else; its neighbours, the
 * thresholds, tell whether this is the collector. */
static bool
thresholds_match(const struct lg_pystack *ps, struct lg_pystack_walker *walker)
{
    int want[3];
    PyObject *gc = PyImport_ImportModule("gc");
    PyObject *tuple = gc != NULL ? PyObject_CallMethod(gc, "get_threshold", NULL) : NULL;
    bool match = tuple != NULL && PyArg_ParseTuple(tuple, "iii", &want[0], &want[1], &want[2]) != 0;
    for (int i = 0; match && i < 3; i++) {
        int32_t found;
        match = read_int(walker, ps->gc_thresholds[i], &found) && found == want[i];
    }
    Py_XDECREF(tuple);
    Py_XDECREF(gc);
    PyErr_Clear();
    return match;
}
