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
#include "found.h"

/* Static for the reason above: what it guards is static, too. */
static pthread_mutex_t room = PTHREAD_MUTEX_INITIALIZER;

struct reader {
    PyObject_HEAD
    struct lg_top *top;                 /* NULL = closed */
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
        result = PyBytes_FromStringAndSize(answer->text, (Py_ssize_t)answer->size);
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
exec_module(PyObject *module)
{
    static bool prepared;
    if (!prepared && pthread_atfork(NULL, NULL, forked_child) != 0) {
        PyErr_NoMemory();
        return -1;
    }
    prepared = true;
    PyObject *type = PyType_FromSpec(&reader_spec);     /* new reference, given to the module */
    if (type == NULL || PyModule_AddObject(module, "Reader", type) < 0) {
        Py_XDECREF(type);
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
