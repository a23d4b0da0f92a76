"""Disk images of a libvirt's host, in its storage pools."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from tdxstack.machine.libvirt_binding import POOLS_ACTIVE, Binding, Connection, Failure, Volume
from tdxstack.machine.libvirt_calls import code


def find(library: Binding, connection: Connection, path: Path) -> Volume:
    """The volume at `path`. Raises libvirt's error where it lies in no pool."""
    try:
        return connection.storageVolLookupByPath(str(path))
    except library.libvirtError as error:
        if code(error) != Failure.NO_STORAGE_VOLUME:
            raise
    # It may have come since the pools were looked at.
    for pool in connection.listAllStoragePools(POOLS_ACTIVE):
        pool.refresh(0)
    return connection.storageVolLookupByPath(str(path))


def overlay_xml(base: Path, format_: str, name: str, capacity: int) -> str:
    """A qcow2 volume (libvirt.org/formatstorage.html) of `capacity` bytes that reads from `base`."""
    volume = Element("volume")
    SubElement(volume, "name").text = name
    SubElement(volume, "capacity", {"unit": "bytes"}).text = str(capacity)
    SubElement(SubElement(volume, "target"), "format", {"type": "qcow2"})
    backing = SubElement(volume, "backingStore")
    SubElement(backing, "path").text = str(base)
    SubElement(backing, "format", {"type": format_})
    return ElementTree.tostring(volume, encoding="unicode")
