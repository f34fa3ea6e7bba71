/*
 * module.c - the extension loopguard._segment: segments for Python to read.
 *
 * No logic: arguments in, one call of the viewers' rooms, text out. The figures
 * come from the model that loopguard-top shows, so they cannot differ from it.
 *
 * We are a guest here, perhaps in the very worker that is looked at: live
 * segments are copied, never mapped (viewer/image.h), and no signal is handled.
 * Every call gives the GIL away while it reads and computes. The viewers' rooms
 * are written for one thread, so one lock stands before them; it is taken
 * without the GIL and no Python runs under it.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <stdbool.h>

#include "../common/lg_error.h"
#include "../viewer/dump.h"
#include "../viewer/find.h"
#include "../viewer/model.h"
#include "../viewer/top_json.h"
#include "exposition.h"
#include "found.h"
#include "ledger.h"

/* Static for the reason above: what it guards is static, too. */
static pthread_mutex_t room = PTHREAD_MUTEX_INITIALIZER;

struct reader {
    PyObject_HEAD
    struct lg_top *top;                 /* NULL = closed */
};

struct ledger {
    PyObject_HEAD
    struct lg_ledger *ledger;           /* NULL = another call is in it */
};

/* What a call of the rooms made: bytes, or what stood in the way. */
struct answer {
    char *text;
    size_t size;
    int err;
    struct lg_problem problem;
};

static PyThreadState *
enter(void)
{
    PyThreadState *state = PyEval_SaveThread();
    pthread_mutex_lock(&room);
    return state;
}

static void
leave(PyThreadState *state)
{
    pthread_mutex_unlock(&room);
    PyEval_RestoreThread(state);
}

/* A thread that was inside at a fork does not exist in the child. */
static void
forked_child(void)
{
    pthread_mutex_init(&room, NULL);
}

/* "SUBJECT: TEXT. HINT": OSError for the world's faults, ValueError for bytes
 * that are no segment. Returns NULL. */
static PyObject *
raise_problem(int err, const struct lg_problem *problem)
{
    char text[sizeof(problem->subject) + sizeof(problem->text) + sizeof(problem->hint) + 8];
    snprintf(text, sizeof(text), "%s%s%s%s%s", problem->subject,
             problem->subject[0] != '\0' ? ": " : "", problem->text,
             problem->hint[0] != '\0' ? ". " : "", problem->hint);
    int number = 0;
    switch (err) {
    case LG_EFORMAT:
    case LG_EVERSION:
    case LG_EENDIAN:
    case LG_EEMPTY:
    case LG_ETRUNCATED:
    case LG_ECORRUPT:
        PyErr_SetString(PyExc_ValueError, text);
        return NULL;
    case -ENOMEM:
        return PyErr_NoMemory();
    case LG_EGONE:
    case LG_EREUSED:
        number = ESRCH;
        break;
    case LG_ENOAGENT:
    case LG_EOFF:
    case LG_ENOTPYTHON:
        number = problem->exit_status == LG_EXIT_PERMISSION ? EACCES : ENOENT;
        break;
    default:
        number = err < 0 && err > -4000 ? -err : EIO;
        break;
    }
    /* Two arguments: OSError picks its subclass by the number. */
    PyObject *args = Py_BuildValue("(is)", number, text);
    if (args != NULL) {
        PyErr_SetObject(PyExc_OSError, args);
        Py_DECREF(args);
    }
    return NULL;
}

/* Takes over answer->text. */
static PyObject *
bytes_of(struct answer *answer)
{
    PyObject *result = NULL;
    if (answer->err != 0 || answer->text == NULL) {
        raise_problem(answer->err != 0 ? answer->err : -ENOMEM, &answer->problem);
    }
    else {
        /* Megabytes are copied, and their pages taken, without the GIL. */
        result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)answer->size);
        char *to = result != NULL ? PyBytes_AS_STRING(result) : NULL;
        Py_BEGIN_ALLOW_THREADS
        if (to != NULL) {
            memcpy(to, answer->text, answer->size);
        }
        free(answer->text);
        Py_END_ALLOW_THREADS
        answer->text = NULL;
    }
    free(answer->text);
    return result;
}

static FILE *
begin_text(struct answer *answer)
{
    FILE *out = open_memstream(&answer->text, &answer->size);
    answer->err = out == NULL ? -errno : 0;
    return out;
}

static void
end_text(struct answer *answer, FILE *out)
{
    bool bad = ferror(out) != 0;
    if (fclose(out) != 0 || bad) {
        answer->err = -ENOMEM;          /* a stream in memory fails for nothing else */
    }
}

/* ---- Reader ------------------------------------------------------------ */

static int
open_worker(int pid, const char *path, const char *dir, struct lg_top **out,
            struct lg_problem *problem)
{
    struct lg_source source;
    struct lg_top *top = NULL;
    int err = path != NULL ? lg_find_file(path, &source, problem)
                           : lg_find_pid(pid, dir, &source, problem);
    if (err != 0) {
        return err;
    }
    err = lg_top_new(&top);
    if (err != 0) {
        lg_source_close(&source);
        return err;
    }
    lg_top_unmapped(top);
    err = lg_top_add(top, &source, problem);
    if (err != 0) {
        lg_top_free(top);
        return err;
    }
    lg_top_refresh(top);
    *out = top;
    return 0;
}

static PyObject *
reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"pid", "path", "directory", NULL};
    int pid;
    PyObject *path = NULL;              /* owned: bytes */
    PyObject *dir = NULL;
    struct reader *self = NULL;
    struct lg_problem problem = {0};
    struct lg_top *top = NULL;
    PyObject *path_arg = Py_None;
    PyObject *dir_arg = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i|OO:Reader", names, &pid, &path_arg,
                                     &dir_arg)) {
        return NULL;
    }
    if ((path_arg != Py_None && !PyUnicode_FSConverter(path_arg, &path)) ||
        (dir_arg != Py_None && !PyUnicode_FSConverter(dir_arg, &dir))) {
        goto done;
    }
    PyThreadState *state = enter();
    int err = open_worker(pid, path != NULL ? PyBytes_AS_STRING(path) : NULL,
                          dir != NULL ? PyBytes_AS_STRING(dir) : NULL, &top, &problem);
    leave(state);
    if (err != 0) {
        raise_problem(err, &problem);
        goto done;
    }
    self = (struct reader *)type->tp_alloc(type, 0);
    if (self == NULL) {
        lg_top_free(top);
        goto done;
    }
    self->top = top;
done:
    Py_XDECREF(path);
    Py_XDECREF(dir);
    return (PyObject *)self;
}

static void
reader_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    lg_top_free(((struct reader *)op)->top);
    type->tp_free(op);
    Py_DECREF(type);
}

/* The model for the length of one call, so that no close() of another thread
 * can free it meanwhile; NULL and ValueError when it is closed or taken. */
static struct lg_top *
borrow(struct reader *self)
{
    struct lg_top *top = self->top;
    self->top = NULL;
    if (top == NULL) {
        PyErr_SetString(PyExc_ValueError,
                        "this segment is closed, or another thread is reading it; open it again");
    }
    return top;
}

static PyObject *
reader_refresh(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct reader *self = (struct reader *)op;
    struct lg_top *top = borrow(self);
    if (top == NULL) {
        return NULL;
    }
    PyThreadState *state = enter();
    lg_top_refresh(top);
    leave(state);
    self->top = top;
    Py_RETURN_NONE;
}

static PyObject *
reader_worker(PyObject *op, PyObject *args)
{
    struct reader *self = (struct reader *)op;
    const char *window;                 /* borrowed from args */
    int events;
    struct lg_view view = {0};
    struct answer answer = {0};
    if (!PyArg_ParseTuple(args, "sp:worker", &window, &events)) {
        return NULL;
    }
    if (!lg_window_from_text(window, &view.window)) {
        PyErr_Format(PyExc_ValueError, "window must be '10s', '1m', '5m' or 'total', not '%s'",
                     window);
        return NULL;
    }
    struct lg_top *top = borrow(self);
    if (top == NULL) {
        return NULL;
    }
    PyThreadState *state = enter();
    FILE *out = begin_text(&answer);
    if (out != NULL) {
        struct lg_json json = {.out = out};
        lg_top_json_worker(&json, top, 0, &view, events != 0);
        end_text(&answer, out);
    }
    leave(state);
    self->top = top;
    return bytes_of(&answer);
}

static PyObject *
reader_part(PyObject *op, PyObject *arg)
{
    static const char *const names[] = {"facts", "histograms", "history", "stacks", "records"};
    struct reader *self = (struct reader *)op;
    struct answer answer = {0};
    int part = 0;
    const char *name = PyUnicode_AsUTF8(arg);           /* borrowed from arg */
    if (name == NULL) {
        return NULL;
    }
    while (part < LG_DUMP_PARTS && strcmp(name, names[part]) != 0) {
        part++;
    }
    if (part == LG_DUMP_PARTS) {
        return PyErr_Format(PyExc_ValueError, "no part '%s' in a segment", name);
    }
    struct lg_top *top = borrow(self);
    if (top == NULL) {
        return NULL;
    }
    PyThreadState *state = enter();
    FILE *out = begin_text(&answer);
    if (out != NULL) {
        lg_dump_json_part(top, (enum lg_dump_part)part, out);
        end_text(&answer, out);
    }
    leave(state);
    self->top = top;
    return bytes_of(&answer);
}

static PyObject *
reader_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct reader *self = (struct reader *)op;
    struct lg_top *top = self->top;
    self->top = NULL;
    lg_top_free(top);
    Py_RETURN_NONE;
}

static PyMethodDef reader_methods[] = {
    {"refresh", reader_refresh, METH_NOARGS,
     PyDoc_STR("refresh() -> None. Copies a live segment again; the dead do not change.")},
    {"worker", reader_worker, METH_VARARGS,
     PyDoc_STR("worker(window, events) -> JSON as of loopguard-top, in bytes.")},
    {"part", reader_part, METH_O,
     PyDoc_STR("part(name) -> JSON as of loopguard-dump, in bytes; name is 'facts', "
               "'histograms', 'history', 'stacks' or 'records'.")},
    {"close", reader_close, METH_NOARGS, PyDoc_STR("close() -> None.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Reader(pid, path, dir). One segment, open.")},
    {Py_tp_new, reader_new},
    {Py_tp_dealloc, reader_dealloc},
    {Py_tp_methods, reader_methods},
    {0, NULL},
};

static PyType_Spec reader_spec = {
    .name = "loopguard._segment.Reader",
    .basicsize = sizeof(struct reader),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = reader_slots,
};

/* ---- Ledger ------------------------------------------------------------ */

static PyObject *
ledger_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"app", "directory", NULL};
    const char *app;                    /* borrowed from args */
    PyObject *dir_arg;
    PyObject *dir = NULL;               /* owned: bytes */
    struct ledger *self = NULL;
    struct lg_ledger *ledger = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "zO:Ledger", names, &app, &dir_arg) ||
        (dir_arg != Py_None && !PyUnicode_FSConverter(dir_arg, &dir))) {
        return NULL;
    }
    if (lg_ledger_new(app, dir != NULL ? PyBytes_AS_STRING(dir) : NULL, &ledger) != 0) {
        PyErr_NoMemory();
    }
    else if ((self = (struct ledger *)type->tp_alloc(type, 0)) == NULL) {
        lg_ledger_free(ledger);
    }
    else {
        self->ledger = ledger;
    }
    Py_XDECREF(dir);
    return (PyObject *)self;
}

static void
ledger_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    lg_ledger_free(((struct ledger *)op)->ledger);
    type->tp_free(op);
    Py_DECREF(type);
}

/* As borrow(). */
static struct lg_ledger *
borrow_ledger(struct ledger *self)
{
    struct lg_ledger *ledger = self->ledger;
    self->ledger = NULL;
    if (ledger == NULL) {
        PyErr_SetString(PyExc_ValueError, "another thread is in this ledger; take turns");
    }
    return ledger;
}

static PyObject *
run_ledger(PyObject *op, int (*call)(struct lg_ledger *))
{
    struct ledger *self = (struct ledger *)op;
    struct lg_ledger *ledger = borrow_ledger(self);
    if (ledger == NULL) {
        return NULL;
    }
    PyThreadState *state = enter();
    int err = call(ledger);
    leave(state);
    self->ledger = ledger;
    if (err != 0) {
        return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

static PyObject *
ledger_update(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return run_ledger(op, lg_ledger_update);
}

static PyObject *
ledger_retire(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return run_ledger(op, lg_ledger_retire_self);
}

static PyObject *
ledger_text(PyObject *op, PyObject *arg)
{
    struct ledger *self = (struct ledger *)op;
    struct answer answer = {0};
    int originals = PyObject_IsTrue(arg);
    struct lg_ledger *ledger = originals < 0 ? NULL : borrow_ledger(self);
    if (ledger == NULL) {
        return NULL;
    }
    PyThreadState *state = enter();
    answer.err = lg_exposition(lg_ledger_total(ledger), originals != 0, &answer.text, &answer.size);
    leave(state);
    self->ledger = ledger;
    return bytes_of(&answer);
}

static double
in_unit(const struct lg_family_info *info, uint64_t n)
{
    return info->unit == LG_UNIT_NS ? (double)n / 1e9 : (double)n;
}

/* A tuple of the label values; new reference. */
static PyObject *
values_of(const struct lg_family_info *info, const char *key)
{
    Py_ssize_t count = info->labels[0] != '\0';
    for (const char *c = info->labels; *c != '\0'; c++) {
        count += *c == ',';
    }
    PyObject *values = PyTuple_New(count);
    for (Py_ssize_t i = 0; i < count && values != NULL; i++) {
        PyObject *text = PyUnicode_DecodeUTF8(key, (Py_ssize_t)strlen(key), "replace");
        if (text == NULL) {
            Py_CLEAR(values);
            break;
        }
        PyTuple_SET_ITEM(values, i, text);              /* steals */
        key += strlen(key) + 1;
    }
    return values;
}

/* A float, or ([bucket counts], sum) of a histogram; new reference. */
static PyObject *
number_of(const struct lg_family_info *info, const uint64_t *words)
{
    if (info->type != LG_HISTOGRAM) {
        return PyFloat_FromDouble(in_unit(info, words[0]));
    }
    PyObject *counts = PyTuple_New(LG_BOUNDS + 1);
    for (Py_ssize_t i = 0; i <= LG_BOUNDS && counts != NULL; i++) {
        PyObject *n = PyLong_FromUnsignedLongLong(words[i]);
        if (n == NULL) {
            Py_CLEAR(counts);
            break;
        }
        PyTuple_SET_ITEM(counts, i, n);                 /* steals */
    }
    return counts == NULL ? NULL
                          : Py_BuildValue("(Nd)", counts, in_unit(info, words[LG_BOUNDS + 1]));
}

static PyObject *
samples_of(const struct lg_family_info *info, const struct lg_sums *table)
{
    PyObject *list = PyList_New(table->count);
    for (uint32_t i = 0; i < table->count && list != NULL; i++) {
        PyObject *values = values_of(info, lg_sums_key(table, i));
        PyObject *number = values != NULL ? number_of(info, lg_sums_words(table, i)) : NULL;
        PyObject *sample = number != NULL ? PyTuple_Pack(2, values, number) : NULL;
        Py_XDECREF(values);
        Py_XDECREF(number);
        if (sample == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, sample);               /* steals */
    }
    return list;
}

static PyObject *
ledger_samples(PyObject *op, PyObject *arg)
{
    struct ledger *self = (struct ledger *)op;
    long index = PyLong_AsLong(arg);
    if (index == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (index < 0 || index >= LG_FAMILY_COUNT) {
        return PyErr_Format(PyExc_ValueError, "family %ld of %d", index, (int)LG_FAMILY_COUNT);
    }
    struct lg_ledger *ledger = borrow_ledger(self);
    if (ledger == NULL) {
        return NULL;
    }
    PyObject *list = samples_of(&lg_family_info[index], &lg_ledger_total(ledger)->table[index]);
    self->ledger = ledger;
    return list;
}

static PyMethodDef ledger_methods[] = {
    {"update", ledger_update, METH_NOARGS,
     PyDoc_STR("update() -> None. Looks for workers, reads them all, adds them up.")},
    {"text", ledger_text, METH_O,
     PyDoc_STR("text(originals) -> exposition of the last update, in bytes.")},
    {"samples", ledger_samples, METH_O,
     PyDoc_STR("samples(family) -> [(label values, number)] of the last update; the number of "
               "a histogram is (counts by bucket, sum).")},
    {"retire", ledger_retire, METH_NOARGS,
     PyDoc_STR("retire() -> None. This worker ends: keeps its counters for the others.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot ledger_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Ledger(app, directory). The workers of one application.")},
    {Py_tp_new, ledger_new},
    {Py_tp_dealloc, ledger_dealloc},
    {Py_tp_methods, ledger_methods},
    {0, NULL},
};

static PyType_Spec ledger_spec = {
    .name = "loopguard._segment.Ledger",
    .basicsize = sizeof(struct ledger),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = ledger_slots,
};

/* ---- module ------------------------------------------------------------ */

static PyObject *
segment_find(PyObject *Py_UNUSED(module), PyObject *arg)
{
    PyObject *dir = NULL;               /* owned: bytes */
    struct answer answer = {0};
    if (arg != Py_None && !PyUnicode_FSConverter(arg, &dir)) {
        return NULL;
    }
    PyThreadState *state = enter();
    FILE *out = begin_text(&answer);
    if (out != NULL) {
        lg_found_json(dir != NULL ? PyBytes_AS_STRING(dir) : NULL, out);
        end_text(&answer, out);
    }
    leave(state);
    Py_XDECREF(dir);
    return bytes_of(&answer);
}

static PyMethodDef methods[] = {
    {"find", segment_find, METH_O,
     PyDoc_STR("find(dir) -> JSON in bytes: every segment that can be seen from here.")},
    {NULL, NULL, 0, NULL},
};

static int
add_type(PyObject *module, const char *name, PyType_Spec *spec)
{
    PyObject *type = PyType_FromSpec(spec);             /* new reference, given to the module */
    if (type == NULL || PyModule_AddObject(module, name, type) < 0) {
        Py_XDECREF(type);
        return -1;
    }
    return 0;
}

/* FAMILIES: (name, type, help, labels) in their order; BOUNDS: upper edges in
 * seconds, in digits; FIRST_ORIGINAL: where the original's four begin. */
static int
add_families(PyObject *module)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    PyObject *families = PyTuple_New(LG_FAMILY_COUNT);
    PyObject *bounds = PyTuple_New(LG_BOUNDS);
    bool good = families != NULL && bounds != NULL;
    for (Py_ssize_t i = 0; i < LG_FAMILY_COUNT && good; i++) {
        const struct lg_family_info *info = &lg_family_info[i];
        PyObject *row =
            Py_BuildValue("(ssss)", info->name, types[info->type], info->help, info->labels);
        good = row != NULL;
        if (good) {
            PyTuple_SET_ITEM(families, i, row);         /* steals */
        }
    }
    for (Py_ssize_t i = 0; i < LG_BOUNDS && good; i++) {
        char text[32];
        lg_families_bound((uint32_t)i, text, sizeof(text));
        PyObject *bound = PyUnicode_FromString(text);
        good = bound != NULL;
        if (good) {
            PyTuple_SET_ITEM(bounds, i, bound);         /* steals */
        }
    }
    if (!good || PyModule_AddIntConstant(module, "FIRST_ORIGINAL", LG_FIRST_ORIGINAL) < 0) {
        Py_XDECREF(families);
        Py_XDECREF(bounds);
        return -1;
    }
    if (PyModule_AddObject(module, "FAMILIES", families) < 0) {         /* steals on success */
        Py_DECREF(families);
        Py_DECREF(bounds);
        return -1;
    }
    if (PyModule_AddObject(module, "BOUNDS", bounds) < 0) {
        Py_DECREF(bounds);
        return -1;
    }
    return 0;
}

static int
exec_module(PyObject *module)
{
    static bool prepared;
    if (!prepared && pthread_atfork(NULL, NULL, forked_child) != 0) {
        PyErr_NoMemory();
        return -1;
    }
    prepared = true;
    if (add_type(module, "Reader", &reader_spec) < 0 ||
        add_type(module, "Ledger", &ledger_spec) < 0 || add_families(module) < 0) {
        return -1;
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, exec_module},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "loopguard._segment",
    .m_doc = PyDoc_STR("Reads the segments of loopguard's workers."),
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__segment(void);

PyMODINIT_FUNC
PyInit__segment(void)
{
    return PyModuleDef_Init(&definition);
}
