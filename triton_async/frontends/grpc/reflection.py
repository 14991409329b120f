"""grpc.reflection: the descriptions of our services, so that grpcurl and the like need no proto files."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FileDescriptor
from grpclib.const import Handler, Status

from triton_async import protos
from triton_async.frontends.grpc.call import Call
from triton_async.frontends.grpc.mapping import handlers

_VERSIONS = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
_SERVICES = sorted(
    service.full_name
    for name in protos.FILE_NAMES
    for service in protos.POOL.FindFileByName(name).services_by_name.values()
)


class Reflection:
    """ServerReflection in both versions."""

    def __mapping__(self) -> dict[str, Handler]:
        found: dict[str, Handler] = {}
        for version in _VERSIONS:
            respond = _responder(version)
            found |= handlers(f"{version}.ServerReflection", {"ServerReflectionInfo": respond})
        return found


def _responder(version: str) -> Any:
    response = protos.message(f"{version}.ServerReflectionResponse")

    async def respond(call: Call) -> None:
        while (request := await call.recv_message()) is not None:
            await call.send_message(
                response(valid_host=request.host, original_request=request, **_answer(request))
            )

    return respond


def _answer(request: Any) -> dict[str, Any]:
    """The field of ServerReflectionResponse that answers, and its value."""
    kind = request.WhichOneof("message_request")
    try:
        if kind == "list_services":
            return {"list_services_response": {"service": [{"name": name} for name in _SERVICES]}}
        if kind == "file_by_filename":
            return _files(protos.POOL.FindFileByName(request.file_by_filename))
        if kind == "file_containing_symbol":
            return _files(protos.POOL.FindFileContainingSymbol(request.file_containing_symbol))
        if kind == "all_extension_numbers_of_type":
            # proto3 messages have no extensions.
            name = protos.POOL.FindMessageTypeByName(request.all_extension_numbers_of_type).full_name
            return {"all_extension_numbers_response": {"base_type_name": name}}
        if kind == "file_containing_extension":
            return _error(Status.NOT_FOUND, "Symbol not found.")
    except KeyError:
        return _error(Status.NOT_FOUND, "File not found." if kind == "file_by_filename" else "Symbol not found.")
    return _error(Status.INVALID_ARGUMENT, "Request without a question.")


def _files(file: FileDescriptor) -> dict[str, Any]:
    """The file and all it imports."""
    found = {file.name: file}
    pending = [file]
    while pending:
        for imported in pending.pop().dependencies:
            if imported.name not in found:
                found[imported.name] = imported
                pending.append(imported)
    return {"file_descriptor_response": {"file_descriptor_proto": [f.serialized_pb for f in found.values()]}}


def _error(status: Status, message: str) -> dict[str, Any]:
    return {"error_response": {"error_code": status.value, "error_message": message}}
